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
#include "attend.cuh"

// A block's share of a row's keys.
struct Keys {
    u32 first, end, blocks;  // blocks: that have one

    __device__ Keys(u32 position, u32 capacity, u64 window, u32 split, u32 splits) {
        u32 last = min(position, capacity - 1) + 1, begin = last > window ? last - (u32)window : 0, count = last - begin;
        u32 each = ((count - 1) / (splits * KEYS) + 1) * KEYS;
        blocks = (count + each - 1) / each;
        first = begin + min(split * each, count), end = begin + min(split * each + each, count);
    }
};

__device__ inline void prefetch(const weight* from, u64 stride, const Keys& keys, u32 head_dim) {
    u32 lines = (head_dim + 63) / 64, count = min(keys.end - keys.first, 256u) * lines;
    for (u32 i = threadIdx.x; i < count; i += 256)
        asm volatile("prefetch.global.L2 [%0];" :: "l"(from + (u64)(keys.first + i / lines) * stride + i % lines * 64));
}

extern "C" __global__ void __launch_bounds__(256)
attention_mma(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride, const weight* v,
              u64 v_stride, const u32* positions, u64 capacity, u64 window, u32 n_kv_heads, u32 group, u32 head_dim,
              f32 scale, f32* partials, u32* counters, u32 splits, u32 cluster) {
    const u32 step = DIM + 4;
    __shared__ __align__(16) f32 parts[8][HEADS][step];
    __shared__ __align__(8) f32 peaks[8][HEADS][2];
    __shared__ float4 inbox[7 * HEADS * DIM / 16];  // a share of the columns of each block of a cluster
    __shared__ float2 tops[8][HEADS];
    u32 tiles_of_head = (group + HEADS - 1) / HEADS, index = blockIdx.x / splits, split = blockIdx.x % splits;
    u32 row = index / tiles_of_head / n_kv_heads, kv_head = index / tiles_of_head % n_kv_heads;
    u32 head = index % tiles_of_head * HEADS, heads = min(group - head, HEADS);
    k += kv_head * head_dim, v += kv_head * head_dim;
    if (cluster > 1) cluster_begin();
    Keys keys(fresh(positions + row), capacity, window, split, splits);
    if (cluster > 1) prefetch(k, k_stride, keys, head_dim), prefetch(v, v_stride, keys, head_dim);
    await_previous();
    u64 columns = (u64)(kv_head * group + head) * head_dim;
    attend(keys, [=] { return Keys(fresh(positions + row), capacity, window, split, splits); }, heads,
           q + row * q_stride + columns, k, k_stride, v, v_stride, head_dim, scale, parts, peaks);
    if (split >= keys.blocks) return;
    scalar* to = out + row * out_stride + columns;
    u32 h = threadIdx.x / 32, c = threadIdx.x % 32 * 4;  // A thread puts four columns of a head together.
    bool inside = h < heads && c < head_dim;
    Four own;
    if (inside)
        own.add(8, [&](u32 warp) { return *(const float2*)peaks[warp][h]; },
                [&](u32 warp) { return *(const float4*)&parts[warp][h][c]; });
    if (keys.blocks == 1) {
        if (inside) own.finish(to + h * head_dim + c);
        return;
    }
    if (cluster > 1) {
        // The first 2^n blocks finish: block b every 2^n-th four of columns, from the b-th on.
        u32 n = 31 - __clz(keys.blocks), each = 256 >> n, rank = threadIdx.x & ((1 << n) - 1);
        cluster_wait();  // All blocks have begun.
        if (inside) give(across(inbox + split * each + (threadIdx.x >> n), rank), own.total);
        if (inside && c >> n < 4) give(across(&tops[split][h], rank), make_float2(own.max, own.sum));
        cluster_arrive(), cluster_wait();
        u32 four = threadIdx.x << n | split;
        h = four / 32, c = four % 32 * 4;
        if (split >> n || threadIdx.x >= each || h >= heads || c >= head_dim) return;
        Four all;
        all.add(keys.blocks, [&](u32 b) { return tops[b][h]; }, [&](u32 b) { return inbox[b * each + threadIdx.x]; });
        all.finish(to + h * head_dim + c);
        return;
    }
    f32* left = partials + ((u64)index * splits * HEADS + h) * step;  // by the first block
    if (inside) *(float4*)(left + (u64)split * HEADS * step + 4 + c) = own.total;
    if (inside && c == 0) *(float2*)(left + (u64)split * HEADS * step) = make_float2(own.max, own.sum);
    if (!last_of(counters + index, keys.blocks) || !inside) return;
    Four all;
    for (u32 first = 0; first < keys.blocks; first += 8) {
        const f32* from = left + (u64)first * HEADS * step;
        all.add(min(keys.blocks - first, 8u), [=](u32 i) { return __ldcg((const float2*)(from + i * HEADS * step)); },
                [=](u32 i) { return __ldcg((const float4*)(from + i * HEADS * step + 4 + c)); });
    }
    all.finish(to + h * head_dim + c);
}
