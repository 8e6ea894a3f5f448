// Many rows of weights against one vector: the products of a decoding step. Needs common.cuh and overlap.cuh.
//
// A warp streams 16-byte pieces of R rows, or `share` warps a part each, U pieces of every row in flight. The vector lies
// in shared memory: as it is if it has the weights' type, or 16-bit weights' pieces of f32 as two planes of 16 bytes.

const u32 R = 4, U = 2, PIECE = 16 / sizeof(weight);

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
// `pieces` pieces of type X by all threads of the block: before(vector) while a predecessor may still run, then
// after(vector, group), where `group` is what the thread will finish, if it is below `groups`. Weights are on their way by
// then. block = 256, grid = groups * share / 8; shared = 16 bytes per piece and plane.
template <class X, class Rows, class Before, class After, class Finish>
__device__ inline void stream_rows(const weight* w, u64 stride, u64 groups, u32 pieces, u32 share, Rows row,
                                   Before before, After after, Finish finish) {
    extern __shared__ uint4 vector[];
    __shared__ f32 parts[8][R];
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
            if (first + u * 32 < end) held[u][r] = once16(rows[r] + (u64)(first + u * 32) * PIECE);
    release_next();
    before(vector);
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
                if (next < end) held[u][r] = once16(rows[r] + (u64)next * PIECE);
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
        for (u32 s = 0; s < share; s++) sums[r] += parts[threadIdx.x * share + s][r];
    }
    finish(own, sums);
}

// Stages norm[c] * x[c] in f32; 1 / sqrt(mean(x^2) + eps) is multiplied with the sums. `weights` before the predecessor has
// finished, `row` after, `scale` once all threads have met.
struct Norm {
    const f32* x;
    const weight* norm;
    u32 k;
    f32 eps;

    __device__ float4* at(uint4* vector, u32 i) const { return (float4*)vector + place<f32>(i, k / PIECE); }
    __device__ void weights(uint4* vector) const {
        f32 v[8];
#pragma unroll 2
        for (u32 i = threadIdx.x * 8; i < k; i += 256 * 8) {
            load8_wide(norm + i, v);
            *at(vector, i) = make_float4(v[0], v[1], v[2], v[3]);
            *at(vector, i + 4) = make_float4(v[4], v[5], v[6], v[7]);
        }
    }
    __device__ void row(uint4* vector, f32 (&squares)[8]) const {
        f32 sum = 0.0f;
#pragma unroll 2
        for (u32 i = threadIdx.x * 8; i < k; i += 256 * 8) {
            uint4 low = fresh16(x + i), high = fresh16(x + i + 4);
            f32 a[4], b[4];
            unpack_piece(low, a, f32()), unpack_piece(high, b, f32());
            for (u32 e = 0; e < 4; e++) sum += a[e] * a[e] + b[e] * b[e];
            float4 p = *at(vector, i), q = *at(vector, i + 4);
            *at(vector, i) = make_float4(p.x * a[0], p.y * a[1], p.z * a[2], p.w * a[3]);
            *at(vector, i + 4) = make_float4(q.x * b[0], q.y * b[1], q.z * b[2], q.w * b[3]);
        }
        sum = lanes_fold(sum, 32, [](f32 a, f32 b) { return a + b; });
        if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = sum;
    }
    __device__ f32 scale(const f32 (&squares)[8]) const {
        f32 sum = 0.0f;
        for (u32 warp = 0; warp < 8; warp++) sum += squares[warp];
        return 1.0f / sqrtf(sum / k + eps);
    }
};
