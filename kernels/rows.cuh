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

// finish(group, sums) with sums[r] = w[row(group, r)] . vector for every group of R rows. stage(vector) fills shared memory
// with `pieces` pieces of type X, by all threads of the block; weights are on their way by then. block = 256, grid =
// groups * share / 8; shared = 16 bytes per piece and plane.
template <class X, class Rows, class Stage, class Finish>
__device__ inline void stream_rows(u64 groups, u32 pieces, u32 share, Rows row, Stage stage, Finish finish) {
    extern __shared__ uint4 vector[];
    __shared__ f32 parts[8][R];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, per = (pieces + share - 1) / share;
    u32 first = warp % share * per + lane, end = min(warp % share * per + per, pieces);
    u64 group = (u64)blockIdx.x * (8 / share) + warp / share;
    const weight* rows[R];
    uint4 held[U][R];
#pragma unroll
    for (u32 r = 0; r < R; r++) rows[r] = row(min(group, groups - 1), r);
#pragma unroll
    for (u32 u = 0; u < U; u++)
#pragma unroll
        for (u32 r = 0; r < R; r++)
            if (first + u * 32 < end) held[u][r] = once16(rows[r] + (u64)(first + u * 32) * PIECE);
    release_next();
    await_previous();
    stage(vector);
    __syncthreads();
    f32 sums[R] = {}, x[PIECE], w[PIECE];
    for (u32 p = first; p < end; p += 32 * U) {
#pragma unroll
        for (u32 u = 0; u < U; u++) {
            if (p + u * 32 >= end) break;
            vector_piece<X>(vector, pieces, p + u * 32, x);
#pragma unroll
            for (u32 r = 0; r < R; r++) {
                unpack_piece(held[u][r], w, weight());
#pragma unroll
                for (u32 e = 0; e < PIECE; e++) sums[r] += w[e] * x[e];
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
    group = (u64)blockIdx.x * (8 / share) + threadIdx.x;
    if (threadIdx.x >= 8 / share || group >= groups) return;
#pragma unroll
    for (u32 r = 0; r < R; r++) {
        sums[r] = 0.0f;
        for (u32 s = 0; s < share; s++) sums[r] += parts[threadIdx.x * share + s][r];
    }
    finish(group, sums);
}
