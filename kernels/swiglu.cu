// swiglu: out[r, i] = silu(x[r, i]) * x[r, cols + i]
//
// shape   x: [rows, 2 * cols]   out: [rows, cols]   rows by stride
// launch  grid = pieces of 4096 outputs, or less: blocks stride over them; block = 256
// needs   out apart from x
// how     one thread per eight columns of two tiles (eights.cuh), whose loads are under way at the same time
// cost    moves 3 * rows * cols elements

#include "common.cuh"
#include "eights.cuh"
#include "silu.cuh"

struct Both { Eight<scalar> gate, up; };

extern "C" __global__ void __launch_bounds__(256)
swiglu(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, u64 rows, u64 cols) {
    bool wide = cols % 8 == 0 && aligned(x, x_stride, rows) && aligned(out, out_stride, rows);
    auto load = [=](u64 row, u64 c, u64 left, bool wide) {
        const scalar* gate = x + row * x_stride + c;
        return Both{hold8(gate, left, wide), hold8(gate + cols, left, wide)};
    };
    for_each_eight<2, 1>(rows, cols, wide, load, [=](u64 row, u64 c, u64 left, bool wide, Both held) {
        f32 gate[8], up[8];
        unpack(held.gate, gate), unpack(held.up, up);
#pragma unroll
        for (u32 i = 0; i < 8; i++) gate[i] = silu_of(gate[i]) * up[i];
        store8(out + row * out_stride + c, left, wide, gate);
    });
}
