// Dot products of rows: what matmul_few and compute_attention_scores share. Needs common.cuh.

// A warp, and how many share the work.
struct Turn {
    u64 warp, of;
};

// finish(i, j, sum_c x[i, c] * w[j, c]) for i < min(m, M) and every j < n, spread over warps. `lanes` lanes of a
// warp share R rows of w: they sum eight columns each per step (one, unless `wide`), then meet in a fixed order.
template <u32 M, u32 R, class F>
__device__ inline void dots_of(const scalar* x, u64 x_stride, u64 m, const weight* w, u64 w_stride, u64 n, u64 k,
                               bool wide, Turn turn, F finish) {
    u32 lanes = lanes_for((k + 7) / 8, 32), lane = threadIdx.x % lanes;
    u64 step = turn.of * (32 / lanes) * R, warp_first = turn.warp * (32 / lanes) * R;
    // A warp goes round as long as any of its rows is left, because its lanes meet in shuffles.
    for (; warp_first < n; warp_first += step) {
        u64 j = warp_first + threadIdx.x % 32 / lanes * R;
        f32 sums[M][R] = {}, a[8], b[R][8];
        const weight* rows[R];
        for (u32 r = 0; r < R; r++) rows[r] = w + min(j + r, n - 1) * w_stride;
        for (u64 c = lane * 8; wide && c < k; c += lanes * 8) {
#pragma unroll
            for (u32 r = 0; r < R; r++) load8_wide(rows[r] + c, b[r]);
#pragma unroll
            for (u32 i = 0; i < M; i++) {
                load8_wide(x + min((u64)i, m - 1) * x_stride + c, a);
#pragma unroll
                for (u32 r = 0; r < R; r++)
#pragma unroll
                    for (u32 e = 0; e < 8; e++) sums[i][r] += a[e] * b[r][e];
            }
        }
        // A row of x alone leaves registers for more columns on their way at a time.
        const u32 U = M == 1 ? 8 : 1;
        for (u64 first = lane; !wide && first < k; first += lanes * U) {
            weight held[U][R];
#pragma unroll
            for (u32 u = 0; u < U; u++)
#pragma unroll
                for (u32 r = 0; r < R; r++) held[u][r] = first + u * lanes < k ? rows[r][first + u * lanes] : weight();
#pragma unroll
            for (u32 u = 0; u < U; u++)
#pragma unroll
                for (u32 i = 0; i < M; i++) {
                    u64 c = first + u * lanes;
                    f32 factor = c < k ? to_f32(x[min((u64)i, m - 1) * x_stride + c]) : 0.0f;
#pragma unroll
                    for (u32 r = 0; r < R; r++) sums[i][r] += factor * to_f32(held[u][r]);
                }
        }
#pragma unroll
        for (u32 i = 0; i < M; i++)
#pragma unroll
            for (u32 r = 0; r < R; r++) {
                f32 sum = lanes_fold(sums[i][r], lanes, [](f32 p, f32 q) { return p + q; });
                if (lane == 0 && i < m && j + r < n) finish(i, j + r, sum);
            }
    }
}

// The same for any number of rows of x, up to MOST at a time: 8, or 4 with fewer registers.
template <u32 MOST, class F>
__device__ inline void dots(const scalar* x, u64 x_stride, u64 m, const weight* w, u64 w_stride, u64 n, u64 k, Turn turn,
                            F finish) {
    bool wide = k % 8 == 0 && aligned(x, x_stride, m) && aligned(w, w_stride, n);
    for (u64 first = 0; first < m; first += MOST) {
        const scalar* from = x + first * x_stride;
        u64 left = m - first;
        auto shifted = [=](u64 i, u64 j, f32 sum) { finish(first + i, j, sum); };
        if (left == 1) dots_of<1, 4>(from, x_stride, left, w, w_stride, n, k, wide, turn, shifted);
        else if (left <= 4 || MOST == 4) dots_of<4, MOST == 4 ? 1 : 2>(from, x_stride, left, w, w_stride, n, k, wide, turn, shifted);
        else dots_of<8, 1>(from, x_stride, left, w, w_stride, n, k, wide, turn, shifted);
    }
}
