// read_probe: out[block] = sum of the words that the block read, modulo 2^32; over all blocks the sum of x
//
// shape   x: [4 * n]; out: [blocks]
// launch  grid = tiles of 4096 pieces of 16 bytes, or less: blocks stride over them; block = 512
// needs   x is aligned to 16 bytes
// how     a thread has eight loads in flight, each beside its neighbours'; a sum of integers has no order
// cost    reads 16 * n bytes

#include "common.cuh"

const u32 AHEAD = 8;

extern "C" __global__ void __launch_bounds__(512)
read_probe(u32* out, const u32* x, u64 n) {
    const uint4* pieces = (const uint4*)x;
    u32 sum = 0;
    for (u64 first = (u64)blockIdx.x * AHEAD * 512; first < n; first += (u64)gridDim.x * AHEAD * 512) {
        uint4 held[AHEAD];
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            u64 at = first + i * 512 + threadIdx.x;
            held[i] = at < n ? __ldcs(pieces + at) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) sum += held[i].x + held[i].y + held[i].z + held[i].w;
    }
    sum = block_fold(sum, [](u32 a, u32 b) { return a + b; });
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}
