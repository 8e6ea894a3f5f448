// Hopper's products of tiles in shared memory by groups of four warps, and clusters of blocks.

#include "tiles.cuh"

// What an instruction needs to know of an operand in shared memory: where it starts, and how far apart are panels of 64
// columns and groups of eight rows. Bit 62: rows of 128 bytes, swizzled. Bits of an address from 18 on name a block of the
// cluster; the operand is always this block's.
__device__ inline u64 descriptor(u32 start, u32 panels, u32 eights) {
    return (u64)(start >> 4 & 0x3fff) | (u64)(panels >> 4) << 16 | (u64)(eights >> 4) << 32 | 1ull << 62;
}

// sums += a * b, of 64 x 16 and 16 x 256, by four warps; TURNED if b's rows are rows of 256, not columns.
template <u32 TURNED> __device__ inline void multiply(f32 (&s)[4][8][4], u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32." SPELL(SCALAR) "." SPELL(SCALAR) " {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
                 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
                 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
                 "%128, %129, 1, 1, 1, 0, %130;"
                 : "+f"(s[0][0][0]), "+f"(s[0][0][1]), "+f"(s[0][0][2]), "+f"(s[0][0][3]),
                   "+f"(s[0][1][0]), "+f"(s[0][1][1]), "+f"(s[0][1][2]), "+f"(s[0][1][3]),
                   "+f"(s[0][2][0]), "+f"(s[0][2][1]), "+f"(s[0][2][2]), "+f"(s[0][2][3]),
                   "+f"(s[0][3][0]), "+f"(s[0][3][1]), "+f"(s[0][3][2]), "+f"(s[0][3][3]),
                   "+f"(s[0][4][0]), "+f"(s[0][4][1]), "+f"(s[0][4][2]), "+f"(s[0][4][3]),
                   "+f"(s[0][5][0]), "+f"(s[0][5][1]), "+f"(s[0][5][2]), "+f"(s[0][5][3]),
                   "+f"(s[0][6][0]), "+f"(s[0][6][1]), "+f"(s[0][6][2]), "+f"(s[0][6][3]),
                   "+f"(s[0][7][0]), "+f"(s[0][7][1]), "+f"(s[0][7][2]), "+f"(s[0][7][3]),
                   "+f"(s[1][0][0]), "+f"(s[1][0][1]), "+f"(s[1][0][2]), "+f"(s[1][0][3]),
                   "+f"(s[1][1][0]), "+f"(s[1][1][1]), "+f"(s[1][1][2]), "+f"(s[1][1][3]),
                   "+f"(s[1][2][0]), "+f"(s[1][2][1]), "+f"(s[1][2][2]), "+f"(s[1][2][3]),
                   "+f"(s[1][3][0]), "+f"(s[1][3][1]), "+f"(s[1][3][2]), "+f"(s[1][3][3]),
                   "+f"(s[1][4][0]), "+f"(s[1][4][1]), "+f"(s[1][4][2]), "+f"(s[1][4][3]),
                   "+f"(s[1][5][0]), "+f"(s[1][5][1]), "+f"(s[1][5][2]), "+f"(s[1][5][3]),
                   "+f"(s[1][6][0]), "+f"(s[1][6][1]), "+f"(s[1][6][2]), "+f"(s[1][6][3]),
                   "+f"(s[1][7][0]), "+f"(s[1][7][1]), "+f"(s[1][7][2]), "+f"(s[1][7][3]),
                   "+f"(s[2][0][0]), "+f"(s[2][0][1]), "+f"(s[2][0][2]), "+f"(s[2][0][3]),
                   "+f"(s[2][1][0]), "+f"(s[2][1][1]), "+f"(s[2][1][2]), "+f"(s[2][1][3]),
                   "+f"(s[2][2][0]), "+f"(s[2][2][1]), "+f"(s[2][2][2]), "+f"(s[2][2][3]),
                   "+f"(s[2][3][0]), "+f"(s[2][3][1]), "+f"(s[2][3][2]), "+f"(s[2][3][3]),
                   "+f"(s[2][4][0]), "+f"(s[2][4][1]), "+f"(s[2][4][2]), "+f"(s[2][4][3]),
                   "+f"(s[2][5][0]), "+f"(s[2][5][1]), "+f"(s[2][5][2]), "+f"(s[2][5][3]),
                   "+f"(s[2][6][0]), "+f"(s[2][6][1]), "+f"(s[2][6][2]), "+f"(s[2][6][3]),
                   "+f"(s[2][7][0]), "+f"(s[2][7][1]), "+f"(s[2][7][2]), "+f"(s[2][7][3]),
                   "+f"(s[3][0][0]), "+f"(s[3][0][1]), "+f"(s[3][0][2]), "+f"(s[3][0][3]),
                   "+f"(s[3][1][0]), "+f"(s[3][1][1]), "+f"(s[3][1][2]), "+f"(s[3][1][3]),
                   "+f"(s[3][2][0]), "+f"(s[3][2][1]), "+f"(s[3][2][2]), "+f"(s[3][2][3]),
                   "+f"(s[3][3][0]), "+f"(s[3][3][1]), "+f"(s[3][3][2]), "+f"(s[3][3][3]),
                   "+f"(s[3][4][0]), "+f"(s[3][4][1]), "+f"(s[3][4][2]), "+f"(s[3][4][3]),
                   "+f"(s[3][5][0]), "+f"(s[3][5][1]), "+f"(s[3][5][2]), "+f"(s[3][5][3]),
                   "+f"(s[3][6][0]), "+f"(s[3][6][1]), "+f"(s[3][6][2]), "+f"(s[3][6][3]),
                   "+f"(s[3][7][0]), "+f"(s[3][7][1]), "+f"(s[3][7][2]), "+f"(s[3][7][3])
                 : "l"(a), "l"(b), "n"(TURNED));
}

__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_end_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <u32 PENDING> __device__ inline void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
__device__ inline void show_copies_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// This block's number in its cluster, and how many blocks that has.
__device__ inline u32 cluster_rank() {
    u32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
__device__ inline u32 cluster_blocks() {
    u32 blocks;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
    return blocks;
}
__device__ inline void cluster_meets() {
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
}
// sum += eight numbers at this address in the shared memory of a block of the cluster.
__device__ inline void add_remote(f32 (&sum)[8], u32 address, u32 block) {
    asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(block));
#pragma unroll
    for (u32 e = 0; e < 8; e += 4) {
        float4 v;
        asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                     : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                     : "r"(address + 4 * e)
                     : "memory");
        sum[e] += v.x, sum[e + 1] += v.y, sum[e + 2] += v.z, sum[e + 3] += v.w;
    }
}
