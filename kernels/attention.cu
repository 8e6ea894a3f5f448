// attention: out[r, h] = softmax(scale * q[r, h] . k[j, g])_j . v[j, g], j in max(0, end - window) .. end,
//            end = min(positions[r], capacity - 1) + 1, g = h / group
//
// shape   q, out: [rows, n_kv_heads * group * head_dim]   k, v: [capacity, n_kv_heads * head_dim]   positions: [rows]
//         partials: 4 * (head_dim + 2) per split of every tile, unused in clusters   counters: one per tile, 0
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
#include "online.cuh"
#include "groups.cuh"

extern "C" __global__ void __launch_bounds__(256)
attention(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride, const weight* v,
          u64 v_stride, const u32* positions, u64 rows, u64 capacity, u64 window, u32 n_kv_heads, u32 group,
          u32 head_dim, f32 scale, f32* partials, u32* counters, u32 splits, u32 cluster) {
    __shared__ Found found;
    u32 parts = (group + HEADS - 1) / HEADS, of_row = n_kv_heads * parts, step = head_dim + 2, split = blockIdx.x % splits;
    __shared__ f32 inbox[7 * HEADS * 64];  // a share of the elements of each block of a cluster
    __shared__ float2 tops[8][HEADS];
    if (cluster > 1) cluster_begin();
    Lanes lanes(head_dim);
    bool even = head_dim % 8 == 0, wide_q = even && aligned(q, q_stride, rows);
    bool wide = even && aligned(k, k_stride, capacity) && aligned(v, v_stride, capacity);
    await_previous();
    release_next();
    for (u64 tile = blockIdx.x / splits; tile < rows * of_row; tile += gridDim.x / splits) {
        u64 row = tile / of_row;
        u32 at = tile % of_row, kv_head = at / parts, head = at % parts * HEADS, heads = min(group - head, HEADS);
        u64 last = min((u64)positions[row], capacity - 1) + 1, begin = last > window ? last - window : 0;
        // Splits of at least 32 keys; those beyond the last key have nothing to do.
        u32 keys = last - begin, each = ((keys - 1) / splits / 32 + 1) * 32, active = (keys - 1) / each + 1;
        if (split >= active) continue;
        u64 first = begin + (u64)split * each, columns = (u64)(kv_head * group + head) * head_dim;
        f32 query[HEADS][8];
#pragma unroll
        for (u32 h = 0; h < HEADS; h++)
            load8(q + row * q_stride + columns + h * head_dim + lanes.column, h < heads ? lanes.left : 0, wide_q, query[h]);
        Span span = {k + (u64)kv_head * head_dim, k_stride, v + (u64)kv_head * head_dim, v_stride, first, min(first + each, last)};
        // The block may still be reading what it found for the item before.
        __syncthreads();
        if (wide) attend<true, 4>(span, lanes, query, scale, found);
        else attend<false, 1>(span, lanes, query, scale, found);
        // Of a cluster's blocks the first 2^n finish: block b every 2^n-th element, from the b-th on.
        u32 n = 31 - __clz(active), elements = HEADS * 256 >> n, rank = threadIdx.x & ((1 << n) - 1);
        f32* own = partials + (tile * splits + split) * HEADS * step;
        if (active > 1 && cluster > 1) {
            cluster_wait();  // All blocks have begun.
            if (threadIdx.x >> n < heads) {
                u32 h = threadIdx.x >> n;
                give(across(&tops[split][h], rank), make_float2(found.tops[h], found.sum(lanes, h)));
            }
        }
        for (u32 e = threadIdx.x; e < heads * head_dim; e += 256) {
            u32 h = e / head_dim, c = e % head_dim;
            f32 total = found.total(lanes, h, c);
            if (active == 1) store(out + row * out_stride + columns + e, quotient(total, found.tops[h], found.sum(lanes, h)));
            else if (cluster > 1) give(across(inbox + split * elements + (e >> n), rank), total);
            else own[h * step + 2 + c] = total;
            if (active > 1 && cluster == 1 && c == 0) own[h * step] = found.tops[h], own[h * step + 1] = found.sum(lanes, h);
        }
        if (active == 1) continue;
        if (cluster > 1) {
            cluster_arrive(), cluster_wait();
            if (split >> n) continue;
            for (u32 i = threadIdx.x, e = i << n | split; e < heads * head_dim; i += 256, e = i << n | split) {
                f32 max, sum, total = fold(active, max, sum, [&](u32 b, f32& peak, f32& part, f32& value) {
                    peak = tops[b][e / head_dim].x, part = tops[b][e / head_dim].y, value = inbox[b * elements + i];
                });
                store(out + row * out_stride + columns + e, quotient(total, max, sum));
            }
            continue;
        }
        if (!last_of(counters + tile, active)) continue;
        for (u32 e = threadIdx.x; e < heads * head_dim; e += 256) {
            const f32* of_head = partials + (tile * splits * HEADS + e / head_dim) * step;
            f32 max, sum, total = fold(active, max, sum, [=](u32 i, f32& peak, f32& part, f32& value) {
                const f32* p = of_head + (u64)i * HEADS * step;
                peak = __ldcg(p), part = __ldcg(p + 1), value = __ldcg(p + 2 + e % head_dim);
            });
            store(out + row * out_stride + columns + e, quotient(total, max, sum));
        }
    }
}
