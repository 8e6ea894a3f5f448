// attention_mma: out[r, h] = softmax(scale * q[r, h] . k[j, g])_j . v[j, g], j in max(0, end - window) .. end,
//                end = min(positions[r], capacity - 1) + 1, g = h / group: for few rows, whose keys are split
//
// shape   q, out: [rows, n_kv_heads * group * head_dim]   k, v: [capacity, n_kv_heads * head_dim]   positions: [rows]
//         partials: 8 * 130 per split of every tile   counters: one per tile, 0
// launch  grid = rows * n_kv_heads * ceil(group / 8) tiles * splits; block = 256; clusters of `cluster` blocks: all splits, at
//         most 8, or 1, as below compute capability 9.0
// needs   head_dim <= 128, a multiple of 8; q, k and v aligned to 16 bytes in every row; capacity < 2^31; out apart from
//         the rest
// how     a block takes the queries of a tile and a split of the keys, its warps 16 keys at a time: scores on tensor cores,
//         a running maximum, weights as two 16-bit numbers (value and remainder) times values on tensor cores. The
//         blocks of a cluster give each other their parts through shared memory, each puts a share of the elements
//         together, in order; without clusters the block that comes last does. Keys outside the window have no weight.
//         To overlap, the keys that an earlier position would have seen are prefetched.
// cost    reads the keys and values that a row sees once for up to eight query heads

#include "common.cuh"
#include "overlap.cuh"
#include "mma.cuh"
#include "merge.cuh"
#include "online.cuh"
#include "attend.cuh"

// A block's share of a row's keys.
struct Keys {
    u32 first, end, blocks;  // blocks: that have one

    __device__ Keys(u32 position, u32 capacity, u64 window, u32 split, u32 splits, u32 cluster) {
        u32 last = min(position, capacity - 1) + 1, begin = last > window ? last - (u32)window : 0, count = last - begin;
        u32 each = ((count - 1) / (splits * KEYS) + 1) * KEYS;
        blocks = cluster > 1 ? splits : (count + each - 1) / each;
        first = begin + min(split * each, count), end = begin + min(split * each + each, count);
    }
};

__device__ inline void prefetch(const weight* from, u64 stride, const Keys& keys, u32 head_dim) {
    u32 lines = (head_dim + 63) / 64, count = min(keys.end - keys.first, 256u) * lines;
    for (u32 i = threadIdx.x; i < count; i += 256)
        asm volatile("prefetch.global.L2 [%0];" :: "l"(from + (u64)(keys.first + i / lines) * stride + i % lines * 64));
}

// The parts of eight warps together: put(h, c, total, max, sum) for each element.
template <class Put>
__device__ inline void meet_warps(const f32 (*parts)[HEADS][DIM + 4], const f32 (*peaks)[HEADS][2], u32 heads, u32 head_dim,
                                  Put put) {
    for (u32 e = threadIdx.x; e < heads * head_dim; e += 256) {
        u32 h = e / head_dim, c = e % head_dim;
        f32 max = -infinity(), sum = 0.0f, total = 0.0f;
#pragma unroll
        for (u32 warp = 0; warp < 8; warp++) max = fmaxf(max, peaks[warp][h][0]);
#pragma unroll
        for (u32 warp = 0; warp < 8; warp++) {
            f32 share = relative(peaks[warp][h][0], max);
            sum += peaks[warp][h][1] * share, total += parts[warp][h][c] * share;
        }
        put(h, c, total, max, sum);
    }
}

extern "C" __global__ void __launch_bounds__(256)
attention_mma(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride, const weight* v,
              u64 v_stride, const u32* positions, u64 capacity, u64 window, u32 n_kv_heads, u32 group, u32 head_dim,
              f32 scale, f32* partials, u32* counters, u32 splits, u32 cluster) {
    __shared__ __align__(16) f32 parts[8][HEADS][DIM + 4];
    __shared__ f32 peaks[8][HEADS][2];
    __shared__ f32 inbox[HEADS * DIM + 8], tops[8][HEADS][2];  // of a cluster's blocks, each with its share of the elements
    u32 tiles_of_head = (group + HEADS - 1) / HEADS, index = blockIdx.x / splits, split = blockIdx.x % splits;
    u32 row = index / tiles_of_head / n_kv_heads, kv_head = index / tiles_of_head % n_kv_heads;
    u32 head = index % tiles_of_head * HEADS, heads = min(group - head, HEADS);
    k += kv_head * head_dim, v += kv_head * head_dim;
    release_next();
    if (cluster > 1) cluster_arrive();
    Keys keys(fresh(positions + row), capacity, window, split, splits, cluster);
    if (cluster > 1) prefetch(k, k_stride, keys, head_dim), prefetch(v, v_stride, keys, head_dim);
    await_previous();
    u64 columns = (u64)(kv_head * group + head) * head_dim;
    attend(keys, [=] { return Keys(fresh(positions + row), capacity, window, split, splits, cluster); }, heads,
           q + row * q_stride + columns, k, k_stride, v, v_stride, head_dim, scale, parts, peaks);
    if (split >= keys.blocks) return;
    scalar* to = out + row * out_stride + columns;
    const u32 step = DIM + 2;
    if (cluster > 1) {
        u32 each = (heads * head_dim + cluster - 1) / cluster;
        cluster_wait();  // All blocks have begun.
        meet_warps(parts, peaks, heads, head_dim, [&](u32 h, u32 c, f32 total, f32 max, f32 sum) {
            u32 e = h * head_dim + c;
            give(inbox + split * each + e % each, e / each, total);
            if (c < cluster) give(&tops[split][h][0], c, max), give(&tops[split][h][1], c, sum);
        });
        cluster_arrive(), cluster_wait();
        for (u32 i = threadIdx.x, e = split * each + i; i < each && e < heads * head_dim; i += 256, e += 256) {
            f32 max, sum, total = fold(cluster, max, sum, [&](u32 b, f32& peak, f32& part, f32& value) {
                peak = tops[b][e / head_dim][0], part = tops[b][e / head_dim][1], value = inbox[b * each + i];
            });
            store(to + e, quotient(total, max, sum));
        }
        return;
    }
    f32* own = partials + ((u64)index * splits + split) * HEADS * step;
    meet_warps(parts, peaks, heads, head_dim, [&](u32 h, u32 c, f32 total, f32 max, f32 sum) {
        if (keys.blocks == 1) return store(to + h * head_dim + c, quotient(total, max, sum));
        own[h * step + 2 + c] = total;
        if (c == 0) own[h * step] = max, own[h * step + 1] = sum;
    });
    if (keys.blocks == 1 || !last_of(counters + index, keys.blocks)) return;
    for (u32 e = threadIdx.x; e < heads * head_dim; e += 256) {
        const f32* of_head = partials + ((u64)index * splits * HEADS + e / head_dim) * step;
        f32 max, sum, total = fold(keys.blocks, max, sum, [&](u32 i, f32& peak, f32& part, f32& value) {
            const f32* p = of_head + (u64)i * HEADS * step;
            peak = __ldcg(p), part = __ldcg(p + 1), value = __ldcg(p + 2 + e % head_dim);
        });
        store(to + e, quotient(total, max, sum));
    }
}
