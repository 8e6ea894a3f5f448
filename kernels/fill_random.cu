// fill_random: out[i] = scale * u, u uniform in [-1, 1) from word i % 4 of Philox4x32-10's block i / 4
//
// shape   out: [n], contiguous
// launch  grid = pieces of 4096 elements, or less: blocks stride over them; block = 256
// needs   nothing
// how     one thread per eight elements: two blocks of four words (Salmon et al. 2011)
// cost    writes n elements

#include "common.cuh"
#include "eights.cuh"
#include "philox.cuh"

extern "C" __global__ void __launch_bounds__(256)
fill_random(scalar* out, u64 n, u64 seed, f32 scale) {
    bool wide = aligned(out, 0, 1);
    auto nothing = [](u64, u64, u64, bool) { return 0; };
    for_each_eight<1, 2>(1, n, wide, nothing, [=](u64, u64 first, u64 left, bool wide, int) {
        f32 v[8];
        for (u32 half = 0; half < 2; half++) {
            uint4 block = philox(seed, first / 4 + half);
            u32 words[4] = {block.x, block.y, block.z, block.w};
            for (u32 i = 0; i < 4; i++)
                v[half * 4 + i] = __fmul_rn(__fadd_rn((f32)(words[i] >> 8) * 0x1p-23f, -1.0f), scale);
        }
        store8(out + first, left, wide, v);
    });
}
