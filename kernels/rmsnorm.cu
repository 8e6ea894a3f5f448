// rmsnorm: out[r, c] = x[r, c] * w[c] * rsqrt(mean_c(x[r, c]^2) + eps)
//
// shape   out, x: [rows, cols], rows by stride   w: [cols]
// launch  grid = rows, or less: blocks stride over rows; block = 256
// needs   out is x itself or apart from it
// how     one block per row; squares are summed in f32 over eight columns per thread and step, then over warps in a
//         fixed order; a second pass scales, reading x from the cache
// cost    moves 2 * rows * cols elements and w

#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
rmsnorm(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const weight* w, u64 rows, u64 cols, f32 eps) {
    bool wide_x = aligned(x, x_stride, rows), wide_out = aligned(out, out_stride, rows), wide_w = aligned(w, 0, 1);
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const scalar* from = x + row * x_stride;
        scalar* to = out + row * out_stride;
        f32 v[8], gain[8], squares = 0.0f;
        for (u64 c = threadIdx.x * 8; c < cols; c += blockDim.x * 8) {
            load8(from + c, cols - c, wide_x, v);
            for (u32 i = 0; i < 8; i++) squares += v[i] * v[i];
        }
        f32 scale = 1.0f / sqrtf(block_sum(squares) / cols + eps);
        for (u64 c = threadIdx.x * 8; c < cols; c += blockDim.x * 8) {
            load8(from + c, cols - c, wide_x, v);
            load8(w + c, cols - c, wide_w, gain);
            for (u32 i = 0; i < 8; i++) v[i] = v[i] * scale * gain[i];
            store8(to + c, cols - c, wide_out, v);
        }
    }
}
