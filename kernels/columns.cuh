// Products with a matrix whose rows are summed. Needs common.cuh.

// finish(i, j, sum_c x[i, c] * w[c, j]) for every i < m and j < n, spread over the whole grid. A block takes M rows of x and
// 8 * `lanes` columns of w, eight per thread; what is left of its threads divides the rows of w, U on their way at a time. Their
// sums meet in a fixed order, in shuffles and then in shared memory. lanes: a power of two up to 32.
template <u32 M, u32 U, class F>
__device__ inline void columns_of(const scalar* x, u64 x_stride, u64 m, const weight* w, u64 w_stride, u64 n, u64 k,
                                  u32 lanes, f32 (*parts)[32 * 8], F finish) {
    u32 lane = threadIdx.x % lanes, groups = blockDim.x / lanes;
    u64 across = ((n + 7) / 8 + lanes - 1) / lanes, down = (m + M - 1) / M;
    bool wide = aligned(w, w_stride, k);
    for (u64 tile = blockIdx.x; tile < across * down; tile += gridDim.x) {
        u64 first = tile / across * M, j = (tile % across * lanes + lane) * 8, left = j < n ? n - j : 0;
        f32 sums[M][8] = {};
#pragma unroll 1
        for (u64 c = threadIdx.x / lanes; c < k; c += groups * U) {
            Eight<weight> held[U];
#pragma unroll
            for (u32 u = 0; u < U; u++) {
                u64 at = c + u * groups;
                held[u] = hold8(w + at * w_stride + j, at < k ? left : 0, wide);
            }
#pragma unroll
            for (u32 u = 0; u < U; u++) {
                u64 at = c + u * groups;
                f32 row[8];
                unpack(held[u], row);
#pragma unroll
                for (u32 i = 0; i < M; i++) {
                    f32 factor = at < k && first + i < m ? to_f32(x[(first + i) * x_stride + at]) : 0.0f;
#pragma unroll
                    for (u32 e = 0; e < 8; e++) sums[i][e] += factor * row[e];
                }
            }
        }
#pragma unroll
        for (u32 i = 0; i < M; i++) {
            if (first + i >= m) break;
            __syncthreads();
            for (u32 step = 16; step >= lanes; step /= 2)
#pragma unroll
                for (u32 e = 0; e < 8; e++) sums[i][e] += __shfl_xor_sync(0xffffffffu, sums[i][e], step);
#pragma unroll
            for (u32 e = 0; e < 8; e++)
                if (threadIdx.x % 32 < lanes) parts[threadIdx.x / 32][lane * 8 + e] = sums[i][e];
            __syncthreads();
            u64 column = tile % across * lanes * 8 + threadIdx.x;
            f32 sum = 0.0f;
            for (u32 warp = 0; warp < 8; warp++) sum += parts[warp][threadIdx.x];
            if (threadIdx.x < lanes * 8 && column < n) finish(first + i, column, sum);
        }
    }
}

// The same for any m, with one row of x at a time, or four.
template <class F>
__device__ inline void columns(const scalar* x, u64 x_stride, u64 m, const weight* w, u64 w_stride, u64 n, u64 k, u32 lanes,
                               F finish) {
    __shared__ f32 parts[8][32 * 8];  // of every warp, its columns
    if (m == 1) columns_of<1, 4>(x, x_stride, m, w, w_stride, n, k, lanes, parts, finish);
    else columns_of<4, 2>(x, x_stride, m, w, w_stride, n, k, lanes, parts, finish);
}
