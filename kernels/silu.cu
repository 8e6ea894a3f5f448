// silu: out[r, c] = x[r, c] / (1 + exp(-x[r, c]))
//
// shape   out, x: [rows, cols], rows by stride
// launch  grid = pieces of 2048 elements, or less: blocks stride over them; block = 256
// needs   out is x itself or apart from it
// how     one thread per eight columns
// cost    moves 2 * rows * cols elements

#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
silu(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, u64 rows, u64 cols) {
    bool wide = aligned(x, x_stride, rows) && aligned(out, out_stride, rows);
    for_each_eight(rows, cols, [=](u64 row, u64 c) {
        f32 v[8];
        load8(x + row * x_stride + c, cols - c, wide, v);
        for (u32 i = 0; i < 8; i++) v[i] = v[i] / (1.0f + expf(-v[i]));
        store8(out + row * out_stride + c, cols - c, wide, v);
    });
}
