// softmax: out[r, c] = exp(x[r, c] - max_c x[r, c]) / sum_c exp(x[r, c] - max_c x[r, c])
//
// shape   out, x: [rows, cols], rows by stride
// launch  grid = rows, or less: blocks stride over rows; block = 256
// needs   out is x itself or apart from it
// how     one block per row. Each thread keeps a running maximum and a sum relative to it; they meet in a fixed order; a
//         second pass writes, reading x from the cache. A row whose maximum is infinite becomes NaN.
// cost    moves 2 * rows * cols elements

#include "common.cuh"

struct Running { f32 max, sum; };

// exp(x - max) that counts x = max = -inf as 1, which a larger maximum scales to 0 later.
__device__ inline f32 relative(f32 x, f32 max) { return x == max ? 1.0f : expf(x - max); }

__device__ inline Running row_sum(const scalar* x, u64 cols, bool wide) {
    f32 v[8], max = -infinity(), sum = 0.0f;
    for (u64 c = threadIdx.x * 8; c < cols; c += blockDim.x * 8) {
        load8(x + c, cols - c, wide, v);
        f32 before = max;
        for (u32 i = 0; i < 8; i++) max = c + i < cols ? fmaxf(max, v[i]) : max;
        sum *= relative(before, max);
        for (u32 i = 0; i < 8; i++) sum += c + i < cols ? relative(v[i], max) : 0.0f;
    }
    f32 all = block_fold(max, [](f32 a, f32 b) { return fmaxf(a, b); });
    return Running{all, block_sum(sum * relative(max, all))};
}

extern "C" __global__ void __launch_bounds__(256)
softmax(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, u64 rows, u64 cols) {
    bool wide = aligned(x, x_stride, rows) && aligned(out, out_stride, rows);
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const scalar* from = x + row * x_stride;
        scalar* to = out + row * out_stride;
        Running all = row_sum(from, cols, wide);
        f32 v[8], share = fabsf(all.max) < infinity() ? 1.0f / all.sum : not_a_number();
        for (u64 c = threadIdx.x * 8; c < cols; c += blockDim.x * 8) {
            load8(from + c, cols - c, wide, v);
            for (u32 i = 0; i < 8; i++) v[i] = expf(v[i] - all.max) * share;
            store8(to + c, cols - c, wide, v);
        }
    }
}
