// Tiles that several blocks share.
//
// A product's output is cut into tiles, its dimension k into steps. Blocks take whole tiles, and the steps of the last tiles, as
// many as the launcher says (tile.rs), are dealt out evenly, so that several blocks may hold parts of one tile. The last of
// them to arrive adds the parts up in the order of the blocks: the same bits in every run with the same grid. Needs common.cuh.

// The steps first .. last of one tile.
struct Share {
    u32 tile, first, last;
};

struct Shares {
    u32 tiles, steps, shared, next;
    u64 unit;

    // shared: how many tiles several blocks share, less than there are blocks; the last ones.
    __device__ Shares(u32 tiles, u32 steps, u32 shared) : tiles(tiles), steps(steps), shared(shared), next(blockIdx.x) {
        unit = begin(blockIdx.x);
    }

    __device__ u32 whole() const { return tiles - shared; }

    // Steps of shared tiles that blocks before `block` take.
    __device__ u64 begin(u32 block) const { return (u64)shared * steps * block / gridDim.x; }

    // The block that takes such a step.
    __device__ u32 owner(u64 unit) const { return ((unit + 1) * gridDim.x - 1) / ((u64)shared * steps); }

    __device__ bool take(Share& share) {
        if (next < whole()) {
            share = Share{next, 0, steps};
            next += gridDim.x;
            return true;
        }
        u64 end = begin(blockIdx.x + 1);
        if (unit >= end) return false;
        u32 first = unit % steps, last = min(first + (end - unit), (u64)steps);
        share = Share{whole() + (u32)(unit / steps), first, last};
        unit += last - first;
        return true;
    }
};

// Adds the parts of a shared tile up, in every thread's own sums; true for the block that holds them then. `arrived`
// counts the blocks that have left their part of a tile, by its number among those that are dealt out, which is less than
// the grid; zero between launches, of which one at a time runs. The patches
// from `patches` on are not looked at.
template <u32 PATCHES, u32 WIDE>
__device__ inline bool meet(f32 (&sums)[PATCHES][WIDE][4], const Shares& shares, const Share& share, float4* parts,
                            u32* arrived, u32 patches) {
    if (share.last - share.first == shares.steps) return true;
    __shared__ bool last;
    u32 rest = share.tile - shares.whole();
    u32 from = shares.owner((u64)rest * shares.steps), to = shares.owner((u64)rest * shares.steps + shares.steps - 1);
    u32 size = PATCHES * WIDE * blockDim.x;
    float4* part = parts + (u64)(blockIdx.x + rest) * size + threadIdx.x;
#pragma unroll
    for (u32 p = 0; p < PATCHES; p++)
#pragma unroll
        for (u32 f = 0; f < WIDE; f++)
            if (p < patches)
                part[(p * WIDE + f) * blockDim.x] =
                    make_float4(sums[p][f][0], sums[p][f][1], sums[p][f][2], sums[p][f][3]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(&arrived[rest], 1) == to - from;
        if (last) arrived[rest] = 0;
    }
    __syncthreads();
    if (!last) return false;
    __threadfence();
#pragma unroll
    for (u32 i = 0; i < PATCHES * WIDE * 4; i++) sums[i / (4 * WIDE)][i / 4 % WIDE][i % 4] = 0.0f;
    for (u32 block = from; block <= to; block++) {
        part = parts + (u64)(block + rest) * size + threadIdx.x;
#pragma unroll
        for (u32 p = 0; p < PATCHES; p++)
#pragma unroll
            for (u32 f = 0; f < WIDE; f++) {
                if (p >= patches) continue;
                float4 v = __ldcg(part + (p * WIDE + f) * blockDim.x);
                sums[p][f][0] += v.x, sums[p][f][1] += v.y, sums[p][f][2] += v.z, sums[p][f][3] += v.w;
            }
    }
    return true;
}
