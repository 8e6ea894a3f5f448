// matmul_wgmma: out[i, j] = sum_c x[i, c] * w[j, c] (+ out[i, j] if `accumulate`), for many rows of x, on Hopper's tensor cores
//
// shape   x: [m, k]   w: [n, k], or [k, n] if `plain`   out: [m, n], f32 if `wide_out`   rows by stride
// launch  grid = any number of clusters, which stride over tiles; block = 256; shared = 196608
// needs   k a multiple of 8, n too if `plain`; rows of x and w at multiples of 16 bytes; out apart from x and w
// how     a block computes tiles of 128 x 256, each of its two groups of four warps 64 rows of it, in steps of 64 columns.
//         Four steps are in shared memory or on the way to it: one is multiplied, one may still be, two are filled. The
//         products read shared memory themselves and run on while the warps ask for the next step. The blocks of a cluster
//         share a tile: each takes its part of k, then adds up its part of the sums of all, in the order of the blocks.
// cost    2 * m * n * k operations; moves x n / 256 times and w m / 128 times, from the cache at best

#include "wgmma.cuh"
#include "bands.cuh"

const u32 ROWS = 128, COLS = 256, DEPTH = 64, STAGES = 4, THREADS = 256, PITCH = COLS + 8;
const u32 RIGHT = ROWS * DEPTH * 2, STAGE = (ROWS + COLS) * DEPTH * 2;

template <u32 PLAIN> __device__ inline void copy(const Operands& of, u32 slot, u64 i, u64 j, u64 step) {
    copy_step<PLAIN, ROWS, COLS, DEPTH, THREADS>(shared_address(dynamic) + slot * STAGE, of, i, j, step);
}

// Sums over the steps first .. last of the tile at (i, j).
template <u32 PLAIN>
__device__ inline void run(f32 (&sums)[4][8][4], const Operands& of, u64 first, u64 last, u64 i, u64 j) {
    u32 mine = shared_address(dynamic) + threadIdx.x / 128 * 64 * DEPTH * 2, slot = 0;
#pragma unroll
    for (u32 s = 0; s < STAGES - 2; s++) {
        if (first + s < last) copy<PLAIN>(of, s, i, j, first + s);
        copies_end_group();
    }
    for (u64 step = first; step < last; step++) {
        copies_wait<STAGES - 3>();
        show_copies_to_products();
        __syncthreads();
        products_begin();
        u32 left = mine + slot * STAGE, right = shared_address(dynamic) + slot * STAGE + RIGHT;
#pragma unroll
        for (u32 at = 0; at < DEPTH / 16; at++)
            multiply<PLAIN>(sums, descriptor(left + at * 32, 16, 1024),
                            PLAIN ? descriptor(right + at * 2048, DEPTH * 128, 1024) : descriptor(right + at * 32, 16, 1024));
        products_end_group();
        // The slot of the step before last: every warp has waited for its products since.
        u32 filled = (slot + STAGES - 2) % STAGES;
        if (step + STAGES - 2 < last) copy<PLAIN>(of, filled, i, j, step + STAGES - 2);
        copies_end_group();
        products_wait<1>();
        slot = (slot + 1) % STAGES;
    }
    products_wait<0>();
    // The sums are written behind the compiler's back until here.
#pragma unroll
    for (u32 e = 0; e < 128; e++) asm volatile("" : "+f"(sums[e / 32][e / 4 % 8][e % 4])::"memory");
}

extern "C" __global__ void __launch_bounds__(256)
matmul_wgmma(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const weight* w, u64 w_stride, u64 m, u64 n, u64 k,
             u32 plain, u32 accumulate, u32 wide_out) {
    Operands of = {x, w, x_stride, w_stride, m, n, k};
    Output to = {out, out_stride, m, n, accumulate != 0, wide_out != 0};
    u64 down = (m + ROWS - 1) / ROWS, across = (n + COLS - 1) / COLS, steps = (k + DEPTH - 1) / DEPTH;
    u32 rank = cluster_rank(), blocks = cluster_blocks();
    for (u64 tile = blockIdx.x / blocks; tile < down * across; tile += gridDim.x / blocks) {
        u64 i, j;
        place(tile, down, across, i, j);
        i *= ROWS, j *= COLS;
        f32 sums[4][8][4] = {};
        u64 first = steps * rank / blocks, last = steps * (rank + 1) / blocks;
        if (plain) run<1>(sums, of, first, last, i, j);
        else run<0>(sums, of, first, last, i, j);
        __syncthreads();
        f32* space = (f32*)dynamic;
#pragma unroll
        for (u32 p = 0; p < 4; p++) stage<PITCH>(space + threadIdx.x / 32 * 16 * PITCH + p * 64, sums[p]);
        cluster_meets();
        // Each block of the cluster adds up and writes its part of the rows.
        auto add = [=](f32 (&sum)[8], u32 row, u32 column) {
            for (u32 b = 0; b < blocks; b++) add_remote(sum, shared_address(space + row * PITCH + column), b);
        };
        write_rows<COLS>(to, i, j, ROWS, rank, blocks, add);
        cluster_meets();
    }
}
