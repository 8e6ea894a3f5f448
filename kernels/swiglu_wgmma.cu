// swiglu_wgmma: out[i, j] = silu(gate) * up, gate = sum_c x[i, c] * w[j, c], up = sum_c x[i, c] * w[ffn + j, c], for many rows,
//               on Hopper's tensor cores
//
// shape   x: [m, k]   w: [2 * ffn, k]   both as tensor maps, with boxes of 128 and of 112 rows by 64 columns
//         out: [m, ffn], rows by stride
// launch  grid = any number of clusters of two blocks, which stride over tiles; block = 384; shared = 211008
// needs   k > 0; what tensor maps need: rows of x and w at multiples of 16 bytes; out apart from x and w
// how     a cluster computes tiles of 256 rows by 112 gates and as many ups, each block 128 of the rows. One thread of a block
//         has the copy engine fill a ring of four slots with 64 columns of its rows, the gates and the ups: one block's thread
//         sends the gates to both blocks, the other's the ups. Two groups of four warps multiply 64 rows each with all of a
//         slot: a thread comes to hold gate and up of the same outputs, so that the products never leave it
// cost    4 * m * ffn * k operations; moves x ffn / 112 times and w m / 256 times, from the cache at best

#include "maps.cuh"
#include "bands.cuh"

const u32 ROWS = 128, HALF = 112, DEPTH = 64, STAGES = 4, PITCH = HALF + 8, PIECES = HALF / 8;
const u32 LEFT = ROWS * DEPTH * 2, RIGHT = HALF * DEPTH * 2, STAGE = LEFT + 2 * RIGHT;

#define SUMS112 SUMS64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, " \
    "%84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, " \
    "%107, %108, %109, %110, %111"

// s += a * b, of 64 x 16 and 16 x 224 in shared memory, by four warps.
__device__ inline void multiply_wide(f32 (&s)[2 * PIECES][4], u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n224k16" TYPES SUMS112 "}, %112, %113, 1, 1, 1, 0, 0;"
                 : SIXTEEN(s, 0), SIXTEEN(s, 4), SIXTEEN(s, 8), SIXTEEN(s, 12), SIXTEEN(s, 16), SIXTEEN(s, 20), SIXTEEN(s, 24)
                 : "l"(a), "l"(b));
}

// f(row, output) of the first of this block's part of each tile of its cluster.
template <class F> __device__ inline void for_each_tile(u64 m, u64 ffn, F f) {
    u64 down = (m + 2 * ROWS - 1) / (2 * ROWS), across = (ffn + HALF - 1) / HALF, i, j;
    for (u64 tile = blockIdx.x / 2; tile < down * across; tile += gridDim.x / 2) {
        place(tile, down, across, i, j);
        f((2 * i + cluster_rank()) * ROWS, j * HALF);
    }
}

// By every warp that read a slot, once: tells both blocks of the cluster.
__device__ inline void leave(const Ring<STAGES, STAGE>& ring, u32 item) {
    if (threadIdx.x % 32 < 2) barrier_arrive_at(ring.full + (STAGES + item % STAGES) * 8, threadIdx.x % 32);
}

// sums += 64 rows, those of this side, by all columns of the ring's next `steps` items.
__device__ inline void multiply_all(f32 (&sums)[2 * PIECES][4], const Ring<STAGES, STAGE>& ring, u32 side, u32 steps,
                                    u32& item) {
    for (u32 step = 0; step < steps; step++, item++) {
        ring.wait_full(item);
        products_begin();
        u32 left = ring.slot(item) + side * (LEFT / 2), right = ring.slot(item) + LEFT;
#pragma unroll
        for (u32 at = 0; at < DEPTH / 16; at++)
            multiply_wide(sums, descriptor(left + at * 32, 16, 1024), descriptor(right + at * 32, 16, 1024));
        products_end_group();
        if (step == 0) continue;
        products_wait<1>();
        leave(ring, item - 1);
    }
    products_wait<0>();
    take(sums);
    leave(ring, item - 1);
}

__device__ inline f32 swiglu(f32 gate, f32 up) { return __fdividef(gate, 1.0f + __expf(-gate)) * up; }

// Puts the outputs of a warp's 16 rows, from (i, j) on, together in shared memory, and from there in place.
__device__ inline void write(scalar* out, u64 stride, u64 m, u64 ffn, u64 i, u64 j, scalar* space,
                             const f32 (&sums)[2 * PIECES][4]) {
    u32 lane = threadIdx.x % 32;
    bool even = aligned(out, stride, m);
#pragma unroll
    for (u32 e = 0; e < 2 * PIECES; e++) {
        const f32(&gate)[4] = sums[e / 2], (&up)[4] = sums[PIECES + e / 2];
        u32 row = lane / 4 + e % 2 * 8, column = e / 2 * 8 + lane % 4 * 2, low = e % 2 * 2;
        f32 first = swiglu(gate[low], up[low]), second = swiglu(gate[low + 1], up[low + 1]);
        *(u32*)(space + row * PITCH + column) = pair(first, second, scalar());
    }
    __syncwarp();
#pragma unroll
    for (u32 item = lane; item < 16 * PIECES; item += 32) {
        u64 row = i + item / PIECES, column = j + item % PIECES * 8;
        if (row >= m || column >= ffn) continue;
        const scalar* from = space + item / PIECES * PITCH + item % PIECES * 8;
        scalar* to = out + row * stride + column;
        if (even && ffn - column >= 8) *(uint4*)to = *(const uint4*)from;
        else for (u32 e = 0; e < 8 && column + e < ffn; e++) to[e] = from[e];
    }
    __syncwarp();
}

extern "C" __global__ void __launch_bounds__(384)
swiglu_wgmma(scalar* out, u64 out_stride, const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, u64 m,
             u64 ffn, u64 k) {
    u32 start = shared_address(dynamic), barriers = start + STAGES * STAGE + ROWS * PITCH * 2, rank = cluster_rank();
    u32 steps = (k + DEPTH - 1) / DEPTH, item = 0;
    Ring<STAGES, STAGE> ring = {start, barriers};
    if (threadIdx.x < 2 * STAGES) barrier_init(barriers + threadIdx.x * 8, threadIdx.x < STAGES ? 1 : 16);
    barriers_show();
    cluster_meets();
    // The same for all threads of a warp, as the compiler does not know of an index.
    u32 role = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    if (role == 0) {
        registers_shrink<40>();
        if (threadIdx.x == 0) for_each_tile(m, ffn, [&](u64 i, u64 j) {
            for (u32 step = 0; step < steps; step++, item++) {
                ring.wait_empty(item);
                u32 to = ring.slot(item), full = ring.full + item % STAGES * 8;
                barrier_expect(full, STAGE);
                fetch(to, x, step * DEPTH, (u32)i, full);
                fetch_for_both(to + LEFT + rank * RIGHT, w, step * DEPTH, (u32)(rank * ffn + j), full);
            }
        });
        __syncwarp();
    } else {
        registers_grow<232>();
        u32 warp = threadIdx.x / 32 - 4;
        for_each_tile(m, ffn, [&](u64 i, u64 j) {
            f32 sums[2 * PIECES][4] = {};
            multiply_all(sums, ring, role - 1, steps, item);
            scalar* space = (scalar*)(dynamic + STAGES * STAGE) + warp * 16 * PITCH;
            write(out, out_stride, m, ffn, i + warp * 16, j, space, sums);
        });
    }
    // A block's shared memory is written by the other.
    cluster_meets();
}
