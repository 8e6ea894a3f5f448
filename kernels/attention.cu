// attention: out[r, h] = softmax(scale * q[r, h] . k[j, g])_j . v[j, g], j in max(0, end - window) .. end,
//            end = min(positions[r], capacity - 1) + 1, g = h / group
//
// shape   q, out: [rows, n_kv_heads * group * head_dim]   k, v: [capacity, n_kv_heads * head_dim]   positions: [rows]
//         partials: 4 * 260 per split of every tile, unused in clusters   counters: one per tile, 0
// launch  grid = rows * n_kv_heads * ceil(group / 4) tiles * splits, or less if splits = 1: blocks stride; block = 256;
//         clusters of `cluster` blocks: all splits, at most 8, or 1, as below compute capability 9.0
// needs   head_dim <= 256; 1 <= capacity < 2^32; window >= 1; out apart from the rest
// how     a block takes a tile, up to four query heads of a row that share keys, and a split of the keys. The lanes that
//         hold a key own eight columns each of q, of the key and of the output; groups of lanes take keys in turn, with
//         a running maximum and sums relative to it, and meet in shared memory in a fixed order; so do the splits, in
//         that of each block of a cluster, or in the block that comes last. Keys outside the window are never read.
// cost    reads the keys and values that a row sees once per four query heads; 4 * head_dim operations per key and head

#include "common.cuh"
#include "overlap.cuh"
#include "merge.cuh"
#include "cluster.cuh"
#include "fours.cuh"
#include "splits.cuh"
#include "groups.cuh"

extern "C" __global__ void __launch_bounds__(256)
attention(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride, const weight* v,
          u64 v_stride, const u32* positions, u64 rows, u64 capacity, u64 window, u32 n_kv_heads, u32 group,
          u32 head_dim, f32 scale, f32* partials, u32* counters, u32 splits, u32 cluster) {
    __shared__ Found found;
    u32 parts = (group + HEADS - 1) / HEADS, of_row = n_kv_heads * parts, split = blockIdx.x % splits;
    Lanes lanes(head_dim);
    bool even = head_dim % 8 == 0, wide_q = even && aligned(q, q_stride, rows);
    bool wide = even && aligned(k, k_stride, capacity) && aligned(v, v_stride, capacity);
    if (cluster > 1) cluster_begin();
    u64 index = blockIdx.x / splits, tiles = rows * of_row, row, of;
    divide(index, of_row, row, of);
    // A guess, until the kernel before has ended.
    Keys keys(fresh(positions + row), capacity, window, split, splits);
    if (cluster > 1) {
        u64 at = of / parts * head_dim;
        prefetch(k + at, k_stride, keys, head_dim), prefetch(v + at, v_stride, keys, head_dim);
    }
    await_previous();
    while (true) {
        u32 kv_head = (u32)of / parts, head = (u32)of % parts * HEADS;
        Tile<64> tile(min(group - head, HEADS), head_dim);
        u64 columns = (u64)(kv_head * group + head) * head_dim;
        f32 query[HEADS][8];
#pragma unroll
        for (u32 h = 0; h < HEADS; h++)
            load8(q + row * q_stride + columns + h * head_dim + lanes.column, h < tile.heads ? lanes.left : 0, wide_q, query[h]);
        Span span = {k + (u64)kv_head * head_dim, k_stride, v + (u64)kv_head * head_dim, v_stride};
        auto find = [=] { return Keys(fresh(positions + row), capacity, window, split, splits); };
        // The block may still be reading what it found for the tile before.
        __syncthreads();
        if (wide) attend<true, 4>(keys, find, span, lanes, query, scale * LOG2_E, found);
        else attend<false, 1>(keys, find, span, lanes, query, scale * LOG2_E, found);
        if (split < keys.blocks) {
            Four own;
            if (tile.inside()) own = found.four(lanes, tile.h, tile.c);
            tile.meet(own, keys, split, cluster, partials + index * splits * HEADS * Tile<64>::STEP, counters + index,
                      out + row * out_stride + columns);
        }
        index += gridDim.x / splits;
        if (index >= tiles) return;
        divide(index, of_row, row, of);
        keys = Keys(fresh(positions + row), capacity, window, split, splits);
    }
}
