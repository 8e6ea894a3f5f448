// matmul_few: out[i, j] = sum_c x[i, c] * w[j, c] (+ out[i, j] if `accumulate`), for few rows of x
//
// shape   x: [m, k]   w: [n, k], or [k, n] if `lanes` is not 0   out: [m, n]
//         rows by stride; out is f32 instead of x's type if `wide`
// launch  grid = n / 32, or what `lanes`, a power of two up to 32, divide into (columns.cuh), or less: blocks stride; block = 256
// needs   out apart from x and w; m above 8 costs a pass over w for every eight rows
// how     lanes of a warp share rows of w (dots.cuh); if w is [k, n], threads own columns (columns.cuh); sums in f32
// cost    moves n * k elements of w, and x and out

#include "common.cuh"
#include "dots.cuh"
#include "columns.cuh"

extern "C" __global__ void __launch_bounds__(256)
matmul_few(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const weight* w, u64 w_stride, u64 m, u64 n,
           u64 k, u32 lanes, u32 accumulate, u32 wide) {
    auto finish = [=](u64 i, u64 j, f32 sum) {
        if (wide) put((f32*)out + i * out_stride + j, sum, accumulate);
        else put(out + i * out_stride + j, sum, accumulate);
    };
    if (lanes) columns(x, x_stride, m, w, w_stride, n, k, lanes, finish);
    else dots<8>(x, x_stride, m, w, w_stride, n, k, Turn{(u64)blockIdx.x * 8 + threadIdx.x / 32, (u64)gridDim.x * 8}, finish);
}
