// matmul: out[i, j] = sum_c x[i, c] * w[j, c] (+ out[i, j] if `accumulate`), for many rows of x
//
// shape   x: [m, k]   w: [n, k], or [k, n] if `plain`   out: [m, n]
//         rows by stride; out is f32 instead of x's type if `wide`
// launch  grid = two blocks per multiprocessor, or less, at most 1024, and the tiles they share (tile.rs); block = 256
// needs   out apart from x and w; parts: a tile of f32 per block and per shared tile (parts.cuh); one launch at a time;
//         counters: as many as blocks, 0
// how     a block multiplies tiles of 128 x 128 outputs if `large`, else of 64 x 128, in steps of 16 columns in shared memory,
//         8 x 8 or 4 x 8 outputs per thread, in f32; the next columns are on their way to registers meanwhile. Each operand is
//         read along the dimension in which it is contiguous.
// cost    2 * m * n * k operations; moves x and w once per tile of the other, from the cache at best

#include "common.cuh"
#include "bands.cuh"
#include "parts.cuh"

const u32 DEPTH = 16, PITCH = 128 + 4;

// DEPTH columns of a tile of both operands, twice: as [column][row].
__shared__ __align__(16) f32 tiles[2][2][DEPTH][PITCH];

// Eight elements of [rows, k] of each of the first TILE / 8 * DEPTH threads: rows first .. first + TILE, columns c .. c + DEPTH.
template <u32 TILE, class E> struct Part {
    const E* from;
    u64 stride, first, rows, k;
    bool plain, wide;
    Eight<E> held;

    __device__ Part(const E* from, u64 stride, u64 first, u64 rows, u64 k, bool plain)
        : from(from), stride(stride), first(first), rows(rows), k(k), plain(plain),
          wide(aligned(from, stride, plain ? k : rows)) {}

    // Asks for them; what is outside is 0.
    __device__ void load(u64 c) {
        u32 line = plain ? threadIdx.x / (TILE / 8) : threadIdx.x % TILE;
        u32 at = plain ? threadIdx.x % (TILE / 8) * 8 : threadIdx.x / TILE * 8;
        u64 row = (plain ? c : first) + line, column = (plain ? first : c) + at;
        u64 high = plain ? k : rows, across = plain ? rows : k;
        if (threadIdx.x >= TILE / 8 * DEPTH) return;
        held = hold8(from + row * stride + column, row < high && column < across ? across - column : 0, wide);
    }

    // Puts them where the block finds them.
    __device__ void give(f32 (*tile)[PITCH]) const {
        if (threadIdx.x >= TILE / 8 * DEPTH) return;
        f32 v[8];
        unpack(held, v);
        if (plain) {
            float4* to = (float4*)&tile[threadIdx.x / (TILE / 8)][threadIdx.x % (TILE / 8) * 8];
            to[0] = make_float4(v[0], v[1], v[2], v[3]), to[1] = make_float4(v[4], v[5], v[6], v[7]);
        } else {
#pragma unroll
            for (u32 i = 0; i < 8; i++) tile[threadIdx.x / TILE * 8 + i][threadIdx.x % TILE] = v[i];
        }
    }
};

// A thread's rows, or columns, of a tile: four, and of a large one four of its other half.
template <u32 EACH> __device__ inline void read(const f32* tile, u32 first, f32 (&v)[EACH]) {
#pragma unroll
    for (u32 i = 0; i < EACH; i += 4) {
        float4 four = *(const float4*)(tile + i * 16 + first);
        v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
    }
}

template <u32 DOWN, u32 ACROSS>
__device__ inline void multiply(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const weight* w, u64 w_stride,
                                u64 m, u64 n, u64 k, bool plain, bool accumulate, bool wide, u32 shared, float4* parts, u32* counters) {
    const u32 ROWS = 16 * DOWN, COLS = 16 * ACROSS;
    u64 down = (m + ROWS - 1) / ROWS, across = (n + COLS - 1) / COLS;
    u32 row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    Shares shares(down * across, (k + DEPTH - 1) / DEPTH, shared);
    for (Share share; shares.take(share);) {
        u64 i, j;
        place(share.tile, down, across, i, j);
        i *= ROWS, j *= COLS;
        Part<ROWS, scalar> left(x, x_stride, i, m, k, false);
        Part<COLS, weight> right(w, w_stride, j, n, k, plain);
        f32 sums[DOWN][ACROSS / 4][4] = {};
        left.load((u64)share.first * DEPTH), right.load((u64)share.first * DEPTH);
        __syncthreads();
#pragma unroll 1
        for (u32 step = share.first; step < share.last; step++) {
            f32(*now)[DEPTH][PITCH] = tiles[step % 2];
            left.give(now[0]), right.give(now[1]);
            __syncthreads();
            left.load((u64)(step + 1) * DEPTH), right.load((u64)(step + 1) * DEPTH);
#pragma unroll
            for (u32 d = 0; d < DEPTH; d++) {
                f32 p[DOWN], q[ACROSS];
                read(now[0][d], row, p), read(now[1][d], column, q);
#pragma unroll
                for (u32 r = 0; r < DOWN; r++)
#pragma unroll
                    for (u32 s = 0; s < ACROSS; s++) sums[r][s / 4][s % 4] += p[r] * q[s];
            }
        }
        if (!meet(sums, shares, share, parts, counters, DOWN)) continue;
#pragma unroll
        for (u32 r = 0; r < DOWN; r++)
#pragma unroll
            for (u32 s = 0; s < ACROSS; s++) {
                u64 to_row = i + r / 4 * 64 + row + r % 4, to_column = j + s / 4 * 64 + column + s % 4;
                if (to_row >= m || to_column >= n) continue;
                u64 at = to_row * out_stride + to_column;
                if (wide) put((f32*)out + at, sums[r][s / 4][s % 4], accumulate);
                else put(out + at, sums[r][s / 4][s % 4], accumulate);
            }
    }
}

extern "C" __global__ void __launch_bounds__(256, 2)
matmul(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const weight* w, u64 w_stride, u64 m, u64 n, u64 k,
       u32 plain, u32 accumulate, u32 wide, u32 large, u32 shared, f32* parts, u32* counters) {
    if (large) multiply<8, 8>(out, out_stride, x, x_stride, w, w_stride, m, n, k, plain, accumulate, wide, shared, (float4*)parts, counters);
    else multiply<4, 8>(out, out_stride, x, x_stride, w, w_stride, m, n, k, plain, accumulate, wide, shared, (float4*)parts, counters);
}
