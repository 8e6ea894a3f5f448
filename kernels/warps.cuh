// Hopper's products with short right operands, the left one perhaps in registers, and meetings of some of a block's warps.

#include "wgmma.cuh"

#define FOUR(s) "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
#define SIXTEEN(s, i) FOUR(s[i]), FOUR(s[i + 1]), FOUR(s[i + 2]), FOUR(s[i + 3])
#define TYPES ".f32." SPELL(SCALAR) "." SPELL(SCALAR) " "
#define SUMS32 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SUMS64 SUMS32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// s = a * b, or s += a * b if MORE, of 64 x 16 and 16 x 64 or 128 in shared memory, by four warps.
template <u32 MORE> __device__ inline void multiply_short(f32 (&s)[8][4], u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16" TYPES SUMS32 "}, %32, %33, %34, 1, 1, 0, 0;"
                 : SIXTEEN(s, 0), SIXTEEN(s, 4) : "l"(a), "l"(b), "n"(MORE));
}
template <u32 MORE> __device__ inline void multiply_short(f32 (&s)[16][4], u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16" TYPES SUMS64 "}, %64, %65, %66, 1, 1, 0, 0;"
                 : SIXTEEN(s, 0), SIXTEEN(s, 4), SIXTEEN(s, 8), SIXTEEN(s, 12) : "l"(a), "l"(b), "n"(MORE));
}

// s += a * b: a's fragments in registers as mma.sync wants them, rows of b in shared memory.
__device__ inline void multiply_held(f32 (&s)[8][4], const u32 (&a)[4], u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16" TYPES SUMS32 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
                 : SIXTEEN(s, 0), SIXTEEN(s, 4) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void multiply_held(f32 (&s)[16][4], const u32 (&a)[4], u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16" TYPES SUMS64 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                 : SIXTEEN(s, 0), SIXTEEN(s, 4), SIXTEEN(s, 8), SIXTEEN(s, 12)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// s = a * b: 64 rows of a's panels of ROWS rows, 8 * N columns that are rows of b's panels.
template <u32 DIM, u32 ROWS, u32 N> __device__ inline void multiply_panels(f32 (&s)[N][4], u32 a, u32 b) {
#pragma unroll
    for (u32 at = 0; at < DIM / 16; at++) {
        u64 left = descriptor(a + at / 4 * ROWS * 128 + at % 4 * 32, 16, 1024);
        u64 right = descriptor(b + at / 4 * N * 8 * 128 + at % 4 * 32, 16, 1024);
        if (at == 0) multiply_short<0>(s, left, right);
        else multiply_short<1>(s, left, right);
    }
    products_end_group();
}

// s += a * b: a in registers, b's panels of 16 * N rows.
template <u32 PARTS, u32 WIDE, u32 N>
__device__ inline void multiply_weights(f32 (&s)[PARTS][WIDE][4], const u32 (&a)[N][4], u32 b) {
#pragma unroll
    for (u32 at = 0; at < N; at++)
#pragma unroll
        for (u32 part = 0; part < PARTS; part++)
            multiply_held(s[part], a[at], descriptor(b + part * 2 * N * 2048 + at * 2048, N * 2048, 1024));
    products_end_group();
}

// Sums of products that have been waited for: they were written behind the compiler's back until here.
template <u32 N> __device__ inline void take(f32 (&s)[N][4]) {
#pragma unroll
    for (u32 i = 0; i < 4 * N; i++) asm volatile("" : "+f"(s[i / 4][i % 4])::"memory");
}
template <u32 PARTS, u32 N> __device__ inline void take_all(f32 (&s)[PARTS][N][4]) {
#pragma unroll
    for (u32 part = 0; part < PARTS; part++) take(s[part]);
}

// A barrier in shared memory: its phase 0, 1, 0, .. ends when `count` threads have arrived in it.
__device__ inline void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ inline void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void barrier_wait(u32 barrier, u32 phase) {
    u32 ended;
    do
        asm volatile("{ .reg .pred ended; mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2; selp.u32 %0, 1, 0, ended; }"
                     : "=r"(ended) : "r"(barrier), "r"(phase) : "memory");
    while (!ended);
}

// Slots of SIZE bytes in shared memory, which some warps fill and others leave; item i goes to slot i % SLOTS. Each has a
// barrier for either, from `full` on: first those that end when it is full.
template <u32 SLOTS, u32 SIZE> struct Ring {
    u32 slots, full;

    __device__ u32 slot(u32 item) const { return slots + item % SLOTS * SIZE; }
    __device__ void wait_full(u32 item) const { barrier_wait(full + item % SLOTS * 8, item / SLOTS & 1); }
    __device__ void wait_empty(u32 item) const {
        if (item >= SLOTS) barrier_wait(full + (SLOTS + item % SLOTS) * 8, item / SLOTS - 1 & 1);
    }
    // By every thread that copied, once its copies are there.
    __device__ void fill(u32 item) const {
        show_copies_to_products();
        barrier_arrive(full + item % SLOTS * 8);
    }
    // By every warp that read, once.
    __device__ void leave(u32 item) const {
        if (threadIdx.x % 32 == 0) barrier_arrive(full + (SLOTS + item % SLOTS) * 8);
    }
};

// Barrier `id` of the block, for 256 threads: those that arrive only, and those that wait for all.
__device__ inline void meeting_announce(u32 id) { asm volatile("bar.arrive %0, 256;" ::"r"(id) : "memory"); }
__device__ inline void meeting_wait(u32 id) { asm volatile("bar.sync %0, 256;" ::"r"(id) : "memory"); }

// Gives up registers of each thread of four warps, or takes them.
template <u32 N> __device__ inline void registers_shrink() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <u32 N> __device__ inline void registers_grow() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
