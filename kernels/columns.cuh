// Products with a matrix whose rows are summed: what matmul_vec and weighted_sum_rows share. Needs common.cuh.

// finish(i, j, sum_c x[i, c] * w[c, j]) for every i < m and j < n, spread over the whole grid. A block takes four rows of x
// and up to 256 columns of w, eight per thread; what is left of its threads divides the rows of w, whose sums meet in
// shared memory in a fixed order.
template <class F>
__device__ inline void columns(const scalar* x, u64 x_stride, u64 m, const weight* w, u64 w_stride, u64 n, u64 k, F finish) {
    const u32 M = 4;
    __shared__ f32 parts[256][8];
    u32 lanes = lanes_for((n + 7) / 8, 32), groups = blockDim.x / lanes;
    u32 lane = threadIdx.x % lanes, group = threadIdx.x / lanes;
    u64 across = ((n + 7) / 8 + lanes - 1) / lanes, down = (m + M - 1) / M;
    bool wide = aligned(w, w_stride, k);
    for (u64 tile = blockIdx.x; tile < across * down; tile += gridDim.x) {
        u64 first = tile / across * M, j = (tile % across * lanes + lane) * 8;
        f32 sums[M][8] = {}, row[8];
        for (u64 c = group; c < k && j < n; c += groups) {
            load8(w + c * w_stride + j, n - j, wide, row);
#pragma unroll
            for (u32 i = 0; i < M; i++) {
                f32 factor = to_f32(x[min(first + i, m - 1) * x_stride + c]);
#pragma unroll
                for (u32 e = 0; e < 8; e++) sums[i][e] += factor * row[e];
            }
        }
#pragma unroll
        for (u32 i = 0; i < M; i++) {
            __syncthreads();
#pragma unroll
            for (u32 e = 0; e < 8; e++) parts[threadIdx.x][e] = sums[i][e];
            __syncthreads();
            for (u32 e = threadIdx.x; e < lanes * 8; e += blockDim.x) {
                f32 sum = 0.0f;
                for (u32 g = 0; g < groups; g++) sum += parts[g * lanes + e / 8][e % 8];
                u64 column = tile % across * lanes * 8 + e;
                if (first + i < m && column < n) finish(first + i, column, sum);
            }
        }
    }
}
