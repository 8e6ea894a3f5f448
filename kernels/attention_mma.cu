// attention_mma: out[r, h] = softmax(scale * q[r, h] . k[j, g])_j . v[j, g], j in max(0, end - window) .. end,
//                end = min(positions[r], capacity - 1) + 1, g = h / group: for few rows, whose keys are split
//
// shape   q, out: [rows, n_kv_heads * group * head_dim]   k, v: [capacity, n_kv_heads * head_dim]   positions: [rows]
//         partials: 8 * 132 per split of every tile, unused in clusters   counters: one per tile, 0
// launch  grid = rows * n_kv_heads * ceil(group / 8) tiles * splits; block = 256; clusters of `cluster` blocks: all splits, at
//         most 8, or 1, as below compute capability 9.0
// needs   head_dim <= 128, a multiple of 8; q, k and v aligned to 16 bytes in every row; capacity < 2^31; out apart from
//         the rest
// how     a block takes the queries of a tile and a split of the keys, its warps 16 keys at a time: scores on tensor cores,
//         a running maximum, weights as two 16-bit numbers (value and remainder) times values on tensor cores. The
//         blocks of a cluster give each other their parts through shared memory, each puts a share of the columns
//         together, in order; without clusters the block that comes last does. Blocks without keys leave. Keys outside
//         the window have no weight. To overlap, the keys that an earlier position would have seen are prefetched.
// cost    reads the keys and values that a row sees once for up to eight query heads

#include "common.cuh"
#include "overlap.cuh"
#include "mma.cuh"
#include "merge.cuh"
#include "cluster.cuh"
#include "fours.cuh"
#include "splits.cuh"
#include "attend.cuh"

extern "C" __global__ void __launch_bounds__(256)
attention_mma(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride, const weight* v,
              u64 v_stride, const u32* positions, u64 capacity, u64 window, u32 n_kv_heads, u32 group, u32 head_dim,
              f32 scale, f32* partials, u32* counters, u32 splits, u32 cluster) {
    __shared__ __align__(16) f32 parts[8][HEADS][DIM + 4];
    __shared__ float2 peaks[8][HEADS];
    u32 tiles_of_head = (group + HEADS - 1) / HEADS, index = blockIdx.x / splits, split = blockIdx.x % splits;
    u32 row = index / tiles_of_head / n_kv_heads, kv_head = index / tiles_of_head % n_kv_heads;
    u32 head = index % tiles_of_head * HEADS, heads = min(group - head, HEADS);
    k += kv_head * head_dim, v += kv_head * head_dim;
    if (cluster > 1) cluster_begin();
    auto find = [=] { return Keys(fresh(positions + row), capacity, window, split, splits); };
    Keys keys = find();
    if (cluster > 1) prefetch(k, k_stride, keys, head_dim), prefetch(v, v_stride, keys, head_dim);
    await_previous();
    u64 columns = (u64)(kv_head * group + head) * head_dim;
    attend(keys, find, heads, q + row * q_stride + columns, k, k_stride, v, v_stride, head_dim, scale, parts, peaks);
    if (split >= keys.blocks) return;
    Tile<DIM / 4> tile(heads, head_dim);
    Four own;
    if (tile.inside())
        own.add(8, [&](u32 warp) { return peaks[warp][tile.h]; },
                [&](u32 warp) { return *(const float4*)&parts[warp][tile.h][tile.c]; });
    tile.meet(own, keys, split, cluster, partials + (u64)index * splits * HEADS * Tile<DIM / 4>::STEP, counters + index,
              out + row * out_stride + columns);
}
