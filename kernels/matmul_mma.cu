// matmul_mma: out[i, j] = sum_c x[i, c] * w[j, c] (+ out[i, j] if `accumulate`), for many rows of x, on tensor cores
//
// shape   x: [m, k]   w: [n, k], or [k, n] if `plain`   out: [m, n], f32 if `wide_out`   rows by stride
// launch  grid = one block per multiprocessor, or less, at most 1024, and the tiles they share (tile.rs); block = 256; shared = 98304
// needs   k a multiple of 8, n too if `plain`; rows of x and w at multiples of 16 bytes; out apart from x and w;
//         parts: 128 x 256 of f32 per block and per shared tile (parts.cuh); one launch at a time;
//         counters: as many as blocks, 0
// how     a block computes tiles of 128 x 256 in steps of 32 columns, four of which are in shared memory or on the way to it.
//         Each of its 2 x 4 warps computes 64 x 64 with mma.sync, its operands one fragment of 16 columns ahead in registers.
// cost    2 * m * n * k operations; moves x n / 256 times and w m / 128 times, from the cache at best

#include "fragments.cuh"
#include "bands.cuh"
#include "parts.cuh"

const u32 ROWS = 128, COLS = 256, DEPTH = 32, STAGES = 4, DOWN = 2, ACROSS = 4, THREADS = DOWN * ACROSS * 32;
const u32 PATCHES = ROWS / DOWN / 16, WIDE = COLS / ACROSS / 8, PIECES = DEPTH / 8, PITCH = COLS + 8;
const u32 RIGHT = ROWS * DEPTH * 2, STAGE = (ROWS + COLS) * DEPTH * 2;

struct Fragments {
    u32 left[PATCHES][4], right[WIDE / 2][4];
};

template <u32 PLAIN> __device__ inline void copy(const Operands& of, u32 slot, u64 i, u64 j, u64 step) {
    copy_step<PLAIN, ROWS, COLS, DEPTH, THREADS>(shared_address(dynamic) + slot * STAGE, of, i, j, step);
}

// Columns 16 * at .. 16 * at + 16 of this warp's part of a stage.
template <u32 PLAIN> __device__ inline void load(Fragments& to, u32 slot, u32 at) {
    u32 from = shared_address(dynamic) + slot * STAGE, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 row = warp / ACROSS * 16 * PATCHES + lane % 16, column = warp % ACROSS * 8 * WIDE;
#pragma unroll
    for (u32 p = 0; p < PATCHES; p++)
        load_fragments(to.left[p], from + swizzled<PIECES>(row + 16 * p, 2 * at + lane / 16));
#pragma unroll
    for (u32 f = 0; f < WIDE / 2; f++) {
        if (PLAIN) {
            u32 j = column + 16 * f + lane / 16 * 8;
            u32 panel = from + RIGHT + j / 64 * DEPTH * 128;
            load_fragments_turned(to.right[f], panel + swizzled<8>(16 * at + lane % 16, j % 64 / 8));
        } else {
            u32 j = column + 16 * f + lane / 16 * 8 + lane % 8;
            load_fragments(to.right[f], from + RIGHT + swizzled<PIECES>(j, 2 * at + lane / 8 % 2));
        }
    }
}

__device__ inline void multiply_all(f32 (&sums)[PATCHES][WIDE][4], const Fragments& of) {
#pragma unroll
    for (u32 p = 0; p < PATCHES; p++)
#pragma unroll
        for (u32 f = 0; f < WIDE; f++)
            multiply(sums[p][f], of.left[p], of.right[f / 2][f % 2 * 2], of.right[f / 2][f % 2 * 2 + 1]);
}

// Sums over a share of the tile at (i, j).
template <u32 PLAIN>
__device__ inline void run(f32 (&sums)[PATCHES][WIDE][4], const Operands& of, const Share& share, u64 i, u64 j) {
    Fragments fragments[2];
    copies_wait<0>();
    __syncthreads();
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) {
        if (share.first + s < share.last) copy<PLAIN>(of, s, i, j, share.first + s);
        copies_end_group();
    }
    copies_wait<STAGES - 2>();
    __syncthreads();
    load<PLAIN>(fragments[0], 0, 0);
    u32 slot = 0, filled = STAGES - 1;
    for (u32 step = share.first; step < share.last; step++) {
        u32 after = slot + 1 == STAGES ? 0 : slot + 1;
#pragma unroll
        for (u32 at = 0; at < DEPTH / 16; at++) {
            bool ends = at + 1 == DEPTH / 16;
            if (ends) {
                copies_wait<STAGES - 2>();
                __syncthreads();
            }
            load<PLAIN>(fragments[(at + 1) % 2], ends ? after : slot, ends ? 0 : at + 1);
            if (at == 0) {
                if (step + STAGES - 1 < share.last) copy<PLAIN>(of, filled, i, j, step + STAGES - 1);
                copies_end_group();
                filled = filled + 1 == STAGES ? 0 : filled + 1;
            }
            multiply_all(sums, fragments[at % 2]);
        }
        slot = after;
    }
}

extern "C" __global__ void __launch_bounds__(256)
matmul_mma(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const weight* w, u64 w_stride, u64 m, u64 n, u64 k,
           u32 plain, u32 accumulate, u32 wide_out, u32 shared, f32* parts, u32* counters) {
    Operands of = {x, w, x_stride, w_stride, m, n, k};
    Output to = {out, out_stride, m, n, accumulate != 0, wide_out != 0};
    u64 down = (m + ROWS - 1) / ROWS, across = (n + COLS - 1) / COLS;
    u32 warp = threadIdx.x / 32;
    Shares shares(down * across, (k + DEPTH - 1) / DEPTH, shared);
    for (Share share; shares.take(share);) {
        u64 i, j;
        place(share.tile, down, across, i, j);
        i *= ROWS, j *= COLS;
        f32 sums[PATCHES][WIDE][4] = {};
        if (plain) run<1>(sums, of, share, i, j);
        else run<0>(sums, of, share, i, j);
        u64 left = m - min(i + warp / ACROSS * 16 * PATCHES, m);
        if (!meet(sums, shares, share, (float4*)parts, counters, min((left + 15) / 16, (u64)PATCHES))) continue;
        // Shared memory holds the rows of one row of warps at a time.
        for (u32 high = 0; high < DOWN; high++, i += ROWS / DOWN) {
            f32* space = (f32*)dynamic;
            __syncthreads();
#pragma unroll
            for (u32 p = 0; p < PATCHES; p++)
                if (warp / ACROSS == high) stage<PITCH>(space + p * 16 * PITCH + warp % ACROSS * WIDE * 8, sums[p]);
            __syncthreads();
            auto add = [=](f32 (&sum)[8], u32 row, u32 column) {
                f32 more[8];
                load8_wide(space + row * PITCH + column, more);
                for (u32 e = 0; e < 8; e++) sum[e] += more[e];
            };
            write_rows<COLS>(to, i, j, ROWS / DOWN, 0, 1, add);
        }
    }
}
