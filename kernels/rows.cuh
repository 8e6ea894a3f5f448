// Many rows of weights against one vector: the products of a decoding step. Needs common.cuh and overlap.cuh.
//
// A warp streams 16-byte pieces of R rows, or `share` warps a part each, U pieces of every row in flight: eight loads of
// 16 bytes a thread for 16-bit weights, sixteen for f32, which measured best. The vector lies
// in shared memory: as it is if it has the weights' type, or 16-bit weights' pieces of f32 as two planes of 16 bytes.

const u32 PIECE = 16 / sizeof(weight);

__device__ inline void unpack_piece(uint4 v, f32 (&out)[8], bf16) { unpack(Eight<bf16>{v}, out); }
__device__ inline void unpack_piece(uint4 v, f32 (&out)[8], f16) { unpack(Eight<f16>{v}, out); }
template <u32 N> __device__ inline void unpack_piece(uint4 v, f32 (&out)[N], f32) {
    out[0] = __uint_as_float(v.x), out[1] = __uint_as_float(v.y);
    out[2] = __uint_as_float(v.z), out[3] = __uint_as_float(v.w);
}

// Where the 16 bytes from element i of the vector on lie, if they hold elements of type X.
template <class X> __device__ inline u32 place(u32 i, u32 pieces) {
    if (sizeof(X) == sizeof(weight)) return i / PIECE;
    return (i / 4 & 1) * pieces + i / 8;
}
template <class X> __device__ inline void vector_piece(const uint4* vector, u32 pieces, u32 p, f32 (&out)[PIECE]) {
    unpack_piece(vector[p], out, X());
    if constexpr (sizeof(X) > sizeof(weight)) {
        f32 high[4];
        unpack_piece(vector[pieces + p], high, X());
        for (u32 i = 0; i < 4; i++) out[4 + i] = high[i];
    }
}

// finish(group, sums) with sums[r] = w[row(group, r)] . vector for every group of R rows. Shared memory is filled with
// `pieces` pieces of type X by all threads of the block: before() while a predecessor may still run, then
// after(vector, group), where `group` is what the thread will finish, if it is below `groups`. Weights are on their way by
// then. block = 256, grid = groups * share / 8; shared = 16 bytes per piece and plane.
template <u32 R, u32 U, class X, class Rows, class Before, class After, class Finish>
__device__ inline void stream_rows(const weight* w, u64 stride, u64 groups, u32 pieces, u32 share, Rows row,
                                   Before before, After after, Finish finish) {
    extern __shared__ uint4 vector[];
    __shared__ __align__(16) f32 parts[8][R];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, per = (pieces + share - 1) / share, slots = 8 / share;
    u32 first = warp % share * per + lane, end = min(warp % share * per + per, pieces);
    u64 group = min((u64)blockIdx.x * slots + warp / share, groups - 1);
    u64 own = threadIdx.x < slots ? (u64)blockIdx.x * slots + threadIdx.x : groups;
    const weight* rows[R];
    uint4 held[U][R];
#pragma unroll
    for (u32 r = 0; r < R; r++) rows[r] = w + row(group, r) * stride;
#pragma unroll
    for (u32 u = 0; u < U; u++)
#pragma unroll
        for (u32 r = 0; r < R; r++)
            if (first + u * 32 < end) held[u][r] = weights16(rows[r] + (u64)(first + u * 32) * PIECE);
    release_next();
    before();
    await_previous();
    after(vector, own);
    __syncthreads();
    f32 sums[R] = {}, x[PIECE], v[PIECE];
    for (u32 p = first; p < end; p += 32 * U) {
#pragma unroll
        for (u32 u = 0; u < U; u++) {
            if (p + u * 32 >= end) break;
            vector_piece<X>(vector, pieces, p + u * 32, x);
#pragma unroll
            for (u32 r = 0; r < R; r++) {
                unpack_piece(held[u][r], v, weight());
#pragma unroll
                for (u32 e = 0; e < PIECE; e++) sums[r] += v[e] * x[e];
            }
            u32 next = p + (U + u) * 32;
#pragma unroll
            for (u32 r = 0; r < R; r++)
                if (next < end) held[u][r] = weights16(rows[r] + (u64)next * PIECE);
        }
    }
#pragma unroll
    for (u32 r = 0; r < R; r++) {
        sums[r] = lanes_fold(sums[r], 32, [](f32 a, f32 b) { return a + b; });
        if (lane == 0) parts[warp][r] = sums[r];
    }
    __syncthreads();
    if (own >= groups) return;
#pragma unroll
    for (u32 r = 0; r < R; r++) {
        sums[r] = 0.0f;
#pragma unroll
        for (u32 s = 0; s < 8; s++) sums[r] += s < share ? parts[threadIdx.x * share + s][r] : 0.0f;
    }
    finish(own, sums);
}

// Stages norm[c] * x[c] in f32; 1 / sqrt(mean(x^2) + eps) is multiplied with the sums. `weights` before the predecessor has
// finished, `row` after, `scale` once all threads have met. What each thread stages first waits in registers, so that no
// load of it is behind another.
struct Norm {
    static const u32 HELD = 2;
    const f32* x;
    const weight* norm;
    u32 k;
    f32 eps;
    Eight<weight> held[HELD];

    __device__ Norm(const f32* x, const weight* norm, u32 k, f32 eps) : x(x), norm(norm), k(k), eps(eps) {}
    __device__ u32 column(u32 step) const { return (threadIdx.x + step * 256) * 8; }
    __device__ void weights() {
#pragma unroll
        for (u32 i = 0; i < HELD; i++)
            if (column(i) < k) held[i] = *(const Eight<weight>*)(norm + column(i));
    }
    __device__ void stage(uint4* vector, u32 c, const Eight<weight>& gain, uint4 low, uint4 high, f32& sum) const {
        float4* to = (float4*)vector + place<f32>(c, k / PIECE);
        float4* next = (float4*)vector + place<f32>(c + 4, k / PIECE);
        f32 a[4], b[4], v[8];
        unpack_piece(low, a, f32()), unpack_piece(high, b, f32()), unpack(gain, v);
        for (u32 e = 0; e < 4; e++) sum += a[e] * a[e] + b[e] * b[e];
        *to = make_float4(v[0] * a[0], v[1] * a[1], v[2] * a[2], v[3] * a[3]);
        *next = make_float4(v[4] * b[0], v[5] * b[1], v[6] * b[2], v[7] * b[3]);
    }
    __device__ void row(uint4* vector, f32 (&squares)[8]) const {
        uint4 low[HELD], high[HELD];
        f32 sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < HELD; i++)
            if (column(i) < k) low[i] = fresh16(x + column(i)), high[i] = fresh16(x + column(i) + 4);
#pragma unroll
        for (u32 i = 0; i < HELD; i++)
            if (column(i) < k) stage(vector, column(i), held[i], low[i], high[i], sum);
#pragma unroll 2
        for (u32 c = column(HELD); c < k; c += 256 * 8)
            stage(vector, c, *(const Eight<weight>*)(norm + c), fresh16(x + c), fresh16(x + c + 4), sum);
        sum = lanes_fold(sum, 32, [](f32 a, f32 b) { return a + b; });
        if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = sum;
    }
    __device__ f32 scale(const f32 (&squares)[8]) const {
        f32 sum = 0.0f;
        for (u32 warp = 0; warp < 8; warp++) sum += squares[warp];
        return 1.0f / sqrtf(sum / k + eps);
    }
};
