// Dot products of rows of at most 256 columns, a multiple of 8, aligned to 16 bytes. Needs common.cuh and dots.cuh.

// What a lane has of sums over lanes: values first .. first + count of them, if it is the lane to write them.
struct Dealt {
    u32 first, count;
    bool owner;
};

// Sums of N values over `lanes` neighbouring lanes, a power of two each. Each step leaves a lane one half of the values, until
// it has one or all lanes are met; value `first` + e is then v[e].
template <u32 N> __device__ inline Dealt deal_sums(f32 (&v)[N], u32 lanes) {
    Dealt dealt = {0, N, true};
#pragma unroll
    for (u32 half = N / 2; half > 0; half /= 2) {
        lanes /= 2;
        if (lanes == 0) continue;
        bool upper = threadIdx.x & lanes;
#pragma unroll
        for (u32 e = 0; e < half; e++) {
            f32 low = v[e], high = v[e + half];
            v[e] = (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, lanes);
        }
        dealt.first += upper ? half : 0, dealt.count = half;
    }
    if (lanes > 1) {
        v[0] = lanes_fold(v[0], lanes, [](f32 a, f32 b) { return a + b; });
        dealt.owner = threadIdx.x % lanes == 0;
    }
    return dealt;
}

// finish(i, j, sum_c x[i, c] * w[j, c]) for i < min(m, M) and every j < n, spread over warps as in dots.cuh. A lane has no more
// than eight columns: those of x stay with it while rows of w pass, R at a time, the next on their way.
template <u32 M, u32 R, class F>
__device__ inline void short_dots_of(const scalar* x, u64 x_stride, u64 m, const weight* w, u64 w_stride, u64 n, u32 k,
                                     Turn turn, F finish) {
    u32 lanes = lanes_for(k / 8, 32), column = threadIdx.x % lanes * 8;
    u64 step = turn.of * (32 / lanes) * R, warp_first = turn.warp * (32 / lanes) * R;
    w += column;
    f32 a[M][8];
#pragma unroll
    for (u32 i = 0; i < M; i++) load8(x + i * x_stride + column, column < k && i < m ? 8 : 0, true, a[i]);
    Eight<weight> held[R];
    auto load = [&](u64 j) {
#pragma unroll
        for (u32 r = 0; r < R; r++) held[r] = hold8(w + (j + r) * w_stride, column < k && j + r < n ? 8 : 0, true);
    };
    u64 j = warp_first + threadIdx.x % 32 / lanes * R;
    load(j);
#pragma unroll 1
    for (; warp_first < n; warp_first += step, j += step) {
        f32 sums[M * R] = {}, b[8];
#pragma unroll
        for (u32 r = 0; r < R; r++) {
            unpack(held[r], b);
#pragma unroll
            for (u32 i = 0; i < M; i++)
#pragma unroll
                for (u32 e = 0; e < 8; e++) sums[i * R + r] += a[i][e] * b[e];
        }
        load(j + step);
        Dealt dealt = deal_sums(sums, lanes);
#pragma unroll
        for (u32 e = 0; e < M * R; e++) {
            u32 i = (dealt.first + e) / R, r = (dealt.first + e) % R;
            if (e < dealt.count && dealt.owner && i < m && j + r < n) finish(i, j + r, sums[e]);
        }
    }
}

// The same for any number of rows of x, up to eight at a time.
template <class F>
__device__ inline void short_dots(const scalar* x, u64 x_stride, u64 m, const weight* w, u64 w_stride, u64 n, u32 k,
                                  Turn turn, F finish) {
    for (u64 first = 0; first < m; first += 8) {
        const scalar* from = x + first * x_stride;
        u64 left = m - first;
        auto shifted = [=](u64 i, u64 j, f32 sum) { finish(first + i, j, sum); };
        if (left == 1) short_dots_of<1, 4>(from, x_stride, left, w, w_stride, n, k, turn, shifted);
        else if (left <= 4) short_dots_of<4, 2>(from, x_stride, left, w, w_stride, n, k, turn, shifted);
        else short_dots_of<8, 1>(from, x_stride, left, w, w_stride, n, k, turn, shifted);
    }
}
