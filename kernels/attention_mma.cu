// attention_mma: out[r, h] = softmax(scale * q[r, h] . k[j, g])_j . v[j, g], j in max(0, end - window) .. end,
//                end = min(positions[r], capacity - 1) + 1, g = h / group: for few rows, whose keys are split
//
// shape   q, out: [rows, n_kv_heads * group * head_dim]   k, v: [capacity, n_kv_heads * head_dim]   positions: [rows]
//         partials: 8 * (head_dim + 2) per split of every tile   counters: one per tile, 0
// launch  grid = rows * n_kv_heads * ceil(group / 8) tiles * splits; block = 256
// needs   head_dim <= 128, a multiple of 8; q, k and v aligned to 16 bytes in every row; capacity < 2^32; out apart from
//         the rest
// how     a block takes the queries of a tile and a split of the keys, its warps 16 keys at a time: scores on tensor cores,
//         a running maximum, weights as two 16-bit numbers (value and remainder) times values on tensor cores. The
//         block that comes last puts the splits together, in order. Keys outside the window are never read.
// cost    reads the keys and values that a row sees once for up to eight query heads

#include "common.cuh"
#include "overlap.cuh"
#include "mma.cuh"
#include "merge.cuh"
#include "online.cuh"
#include "attend.cuh"

extern "C" __global__ void __launch_bounds__(256)
attention_mma(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride, const weight* v,
              u64 v_stride, const u32* positions, u64 capacity, u64 window, u32 n_kv_heads, u32 group, u32 head_dim,
              f32 scale, f32* partials, u32* counters, u32 splits) {
    __shared__ f32 found[8][HEADS][DIM + 4], peaks[8][HEADS][2];
    release_next();
    await_previous();
    u32 parts = (group + HEADS - 1) / HEADS, index = blockIdx.x / splits, split = blockIdx.x % splits;
    u32 row = index / parts / n_kv_heads, kv_head = index / parts % n_kv_heads, head = index % parts * HEADS;
    u64 last = min((u64)fresh(positions + row), capacity - 1) + 1, begin = last > window ? last - window : 0;
    // Splits of at least two warps' keys; those beyond the last key have nothing to do.
    u64 each = ((last - begin + splits - 1) / splits + 2 * KEYS - 1) / (2 * KEYS) * (2 * KEYS);
    u32 active = (last - begin + each - 1) / each, heads = min(group - head, HEADS);
    if (split >= active) return;
    u64 first = begin + split * each;
    u64 columns = (u64)(kv_head * group + head) * head_dim;
    attend(first, min(first + each, last), heads, q + row * q_stride + columns, k + kv_head * head_dim, k_stride,
           v + kv_head * head_dim, v_stride, head_dim, scale, found, peaks);
    const u32 step = DIM + 2;
    f32* own = partials + ((u64)index * splits + split) * HEADS * step;
    for (u32 e = threadIdx.x; e < heads * head_dim; e += 256) {
        u32 h = e / head_dim, c = e % head_dim;
        f32 max = -infinity(), sum = 0.0f, total = 0.0f;
        for (u32 warp = 0; warp < 8; warp++) max = fmaxf(max, peaks[warp][h][0]);
        for (u32 warp = 0; warp < 8; warp++) {
            f32 share = relative(peaks[warp][h][0], max);
            sum += peaks[warp][h][1] * share, total += found[warp][h][c] * share;
        }
        if (active == 1) store(out + row * out_stride + columns + e, quotient(total, max, sum));
        else own[h * step + 2 + c] = total;
        if (active > 1 && c == 0) own[h * step] = max, own[h * step + 1] = sum;
    }
    if (active == 1 || !last_of(counters + index, active)) return;
    for (u32 e = threadIdx.x; e < heads * head_dim; e += 256) {
        f32 max, sum;
        const f32* of_head = partials + ((u64)index * splits * HEADS + e / head_dim) * step;
        f32 total = fold(active, e % head_dim, max, sum, [=](u32 i) { return of_head + (u64)i * HEADS * step; });
        store(out + row * out_stride + columns + e, quotient(total, max, sum));
    }
}
