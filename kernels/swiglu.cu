// swiglu: out[r, i] = silu(x[r, i]) * x[r, cols + i]
//
// shape   x: [rows, 2 * cols]   out: [rows, cols]   rows by stride
// launch  grid = pieces of 2048 outputs, or less: blocks stride over them; block = 256
// needs   out apart from x
// how     one thread per eight columns
// cost    moves 3 * rows * cols elements

#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
swiglu(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, u64 rows, u64 cols) {
    bool wide_x = cols % 8 == 0 && aligned(x, x_stride, rows), wide_out = aligned(out, out_stride, rows);
    for_each_eight(rows, cols, [=](u64 row, u64 c) {
        f32 gate[8], up[8];
        load8(x + row * x_stride + c, cols - c, wide_x, gate);
        load8(x + row * x_stride + cols + c, cols - c, wide_x, up);
        for (u32 i = 0; i < 8; i++) gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
        store8(out + row * out_stride + c, cols - c, wide_out, gate);
    });
}
