// silu: out[r, c] = x[r, c] / (1 + exp(-x[r, c]))
//
// shape   out, x: [rows, cols], rows by stride
// launch  grid = pieces of 16 KiB, or less: blocks stride over them; block = 256
// needs   out is x itself or apart from it
// how     one thread per eight columns of as many tiles (eights.cuh) as make 64 bytes of them, one after the other: many
//         threads, with few registers each, hide the time that loads take
// cost    moves 2 * rows * cols elements

#include "common.cuh"
#include "eights.cuh"
#include "silu.cuh"

extern "C" __global__ void __launch_bounds__(256)
silu(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, u64 rows, u64 cols) {
    bool wide = aligned(x, x_stride, rows) && aligned(out, out_stride, rows);
    auto load = [=](u64 row, u64 c, u64 left, bool wide) { return hold8(x + row * x_stride + c, left, wide); };
    for_each_eight<1, 8 / sizeof(scalar)>(rows, cols, wide, load, [=](u64 row, u64 c, u64 left, bool wide, Eight<scalar> held) {
        f32 v[8];
        unpack(held, v);
#pragma unroll
        for (u32 i = 0; i < 8; i++) v[i] = silu_of(v[i]);
        store8(out + row * out_stride + c, left, wide, v);
    });
}
