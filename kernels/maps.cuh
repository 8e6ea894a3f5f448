// Hopper's copy engine: one thread has it bring boxes of a matrix to shared memory.

#include "warps.cuh"

// What the engine knows of a matrix; made by the driver.
struct __align__(64) TensorMap { u64 words[16]; };

// One arrival, and bytes that the phase waits for.
__device__ inline void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// One arrival at a barrier at this address in a block of the cluster.
__device__ inline void barrier_arrive_at(u32 barrier, u32 block) {
    asm volatile("mapa.shared::cluster.u32 %0, %0, %1; mbarrier.arrive.shared::cluster.b64 _, [%0];"
                 : "+r"(barrier) : "r"(block) : "memory");
}
// Shows barriers that have been made to the engine and to other blocks of the cluster.
__device__ inline void barriers_show() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Sends the box at (row, column) to shared memory, 0 beyond the matrix, and counts its bytes off the barrier.
__device__ inline void fetch(u32 to, const TensorMap& map, u32 column, u32 row, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                 ::"r"(to), "l"(&map), "r"(column), "r"(row), "r"(barrier) : "memory");
}
// The same to this address in both blocks of a cluster, and off the barrier of each.
__device__ inline void fetch_for_both(u32 to, const TensorMap& map, u32 column, u32 row, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%2, %3}], [%4], %5;"
                 ::"r"(to), "l"(&map), "r"(column), "r"(row), "r"(barrier), "h"((u16)3) : "memory");
}
// The same to one block, of a matrix whose rows are heads.
__device__ inline void fetch(u32 to, const TensorMap& map, u32 column, u32 head, u32 row, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to), "l"(&map), "r"(column), "r"(head), "r"(row), "r"(barrier) : "memory");
}
