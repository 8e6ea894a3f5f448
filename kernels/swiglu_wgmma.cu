// swiglu_wgmma: out[i, j] = silu(gate) * up, gate = sum_c x[i, c] * w[j, c], up = sum_c x[i, c] * w[ffn + j, c], for many rows,
//               on Hopper's tensor cores
//
// shape   x: [m, k]   w: [2 * ffn, k]   both as tensor maps with boxes of 128 rows by 64 columns, rows of 128 bytes swizzled
//         out: [m, ffn], rows by stride
// launch  grid = any number of blocks, which stride over tiles; block = 384; shared = 231488
// needs   k > 0; what tensor maps need: rows of x and w at multiples of 16 bytes; out apart from x and w
// how     a block computes tiles of 128 rows by 128 gates and as many ups. One thread has the copy engine fill a ring of four
//         slots, each with 64 columns of the rows, the gates and the ups. Two groups of four warps multiply 64 rows each with
//         all of a slot: a thread comes to hold gate and up of the same outputs, so that the products never leave it
// cost    4 * m * ffn * k operations; moves x ffn / 128 times and w m / 128 times, from the cache at best

#include "warps.cuh"

const u32 SIDE = 128, DEPTH = 64, PART = SIDE * DEPTH * 2, STAGE = 3 * PART, STAGES = 4, PITCH = SIDE + 8;

// What the copy engine knows of a matrix; made by the driver.
struct __align__(64) TensorMap { u64 words[16]; };

// Sends 128 rows by 64 columns to shared memory, 0 beyond the matrix, and counts their bytes off the barrier.
__device__ inline void fetch(u32 to, const TensorMap& map, u32 column, u32 row, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                 ::"r"(to), "l"(&map), "r"(column), "r"(row), "r"(barrier) : "memory");
}

// One arrival, and bytes that the phase waits for.
__device__ inline void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

struct Shape {
    u64 m, ffn, down, across;
    u32 steps;

    __device__ Shape(u64 m, u64 ffn, u64 k)
        : m(m), ffn(ffn), down((m + SIDE - 1) / SIDE), across((ffn + SIDE - 1) / SIDE), steps((k + DEPTH - 1) / DEPTH) {}
    template <class F> __device__ void for_each_tile(F f) const {
        u64 i, j;
        for (u64 tile = blockIdx.x; tile < down * across; tile += gridDim.x) {
            place(tile, down, across, i, j);
            f(i * SIDE, j * SIDE);
        }
    }
};

// sums += 64 rows, those of this side, by all columns of the ring's next `steps` items.
__device__ inline void multiply_all(f32 (&sums)[4][8][4], const Ring<STAGES, STAGE>& ring, u32 side, u32 steps, u32& item) {
    for (u32 step = 0; step < steps; step++, item++) {
        ring.wait_full(item);
        products_begin();
        u32 left = ring.slot(item) + side * (PART / 2), right = ring.slot(item) + PART;
#pragma unroll
        for (u32 at = 0; at < DEPTH / 16; at++)
            multiply<0>(sums, descriptor(left + at * 32, 16, 1024), descriptor(right + at * 32, 16, 1024));
        products_end_group();
        if (step == 0) continue;
        products_wait<1>();
        ring.leave(item - 1);
    }
    products_wait<0>();
    // The sums are written behind the compiler's back until here.
#pragma unroll
    for (u32 e = 0; e < 128; e++) asm volatile("" : "+f"(sums[e / 32][e / 4 % 8][e % 4])::"memory");
    ring.leave(item - 1);
}

__device__ inline f32 swiglu(f32 gate, f32 up) { return __fdividef(gate, 1.0f + __expf(-gate)) * up; }

// Puts the outputs of a warp's 16 rows together in shared memory, and from there in place.
__device__ inline void write(scalar* out, u64 stride, bool even, const Shape& of, u64 i, u64 j, scalar* space,
                             const f32 (&sums)[4][8][4]) {
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 e = 0; e < 32; e++) {
        const f32(&gate)[4] = sums[e / 16][e / 2 % 8], (&up)[4] = sums[2 + e / 16][e / 2 % 8];
        u32 row = lane / 4 + e % 2 * 8, column = e / 2 * 8 + lane % 4 * 2, low = e % 2 * 2;
        f32 first = swiglu(gate[low], up[low]), second = swiglu(gate[low + 1], up[low + 1]);
        *(u32*)(space + row * PITCH + column) = pair(first, second, scalar());
    }
    __syncwarp();
#pragma unroll
    for (u32 item = lane; item < 16 * SIDE / 8; item += 32) {
        u64 row = i + item / (SIDE / 8), column = j + item % (SIDE / 8) * 8;
        if (row >= of.m || column >= of.ffn) continue;
        const scalar* from = space + item / (SIDE / 8) * PITCH + item % (SIDE / 8) * 8;
        scalar* to = out + row * stride + column;
        if (even && of.ffn - column >= 8) *(uint4*)to = *(const uint4*)from;
        else for (u32 e = 0; e < 8 && column + e < of.ffn; e++) to[e] = from[e];
    }
    __syncwarp();
}

extern "C" __global__ void __launch_bounds__(384)
swiglu_wgmma(scalar* out, u64 out_stride, const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, u64 m,
             u64 ffn, u64 k) {
    u32 start = shared_address(dynamic), barriers = start + STAGES * STAGE + SIDE * PITCH * 2, item = 0;
    Ring<STAGES, STAGE> ring = {start, barriers};
    Shape of(m, ffn, k);
    if (threadIdx.x < 2 * STAGES) barrier_init(barriers + threadIdx.x * 8, threadIdx.x < STAGES ? 1 : 8);
    show_copies_to_products();
    __syncthreads();
    // The same for all threads of a warp, as the compiler does not know of an index.
    u32 role = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    if (role == 0) {
        registers_shrink<40>();
        if (threadIdx.x > 0) return;
        return of.for_each_tile([&](u64 i, u64 j) {
            for (u32 step = 0; step < of.steps; step++, item++) {
                ring.wait_empty(item);
                u32 to = ring.slot(item), full = ring.full + item % STAGES * 8;
                barrier_expect(full, STAGE);
                fetch(to, x, step * DEPTH, (u32)i, full);
                fetch(to + PART, w, step * DEPTH, (u32)j, full);
                fetch(to + 2 * PART, w, step * DEPTH, (u32)(ffn + j), full);
            }
        });
    }
    registers_grow<232>();
    u32 side = role - 1, warp = threadIdx.x / 32 - 4;
    bool even = aligned(out, out_stride, m);
    of.for_each_tile([&](u64 i, u64 j) {
        f32 sums[4][8][4] = {};
        multiply_all(sums, ring, side, of.steps, item);
        scalar* space = (scalar*)(dynamic + STAGES * STAGE) + warp * 16 * PITCH;
        write(out, out_stride, even, of, i + warp * 16, j, space, sums);
    });
}
