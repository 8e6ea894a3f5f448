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

const u32 DIM = 128, HEADS = 8, KEYS = 16;

// exp(x - max) that counts x = max = -inf as 1, which a larger maximum scales to 0 later.
__device__ inline f32 relative(f32 x, f32 max) { return x == max ? 1.0f : expf(x - max); }

__device__ inline f32 low(u32 pair, bf16) { return __uint_as_float(pair << 16); }
__device__ inline f32 high(u32 pair, bf16) { return __uint_as_float(pair & 0xffff0000u); }
__device__ inline f32 low(u32 pair, f16) { return to_f32(f16{(u16)pair}); }
__device__ inline f32 high(u32 pair, f16) { return to_f32(f16{(u16)(pair >> 16)}); }

// What a warp knows of its keys: lane 4 g + t of head g, the sum of weights over its own keys, 32 columns of the output.
struct State {
    f32 max = -infinity(), sum = 0.0f, out[16][4] = {};

    __device__ void take(const uint4 (&q)[4], const uint4 (&k)[2][4], const uint4 (&v)[2][2][2], u64 first, u64 end, f32 scale) {
        u32 t = threadIdx.x % 4, whole[2], rest[2];
        f32 s[2][4] = {}, top = max;
        const uint4 none = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) mma32(s[n], q[i], none, k[n][i], weight());
#pragma unroll
            for (u32 e = 0; e < 2; e++) {
                s[n][e] *= scale;
                if (first + n * 8 + 2 * t + e < end) top = fmaxf(top, s[n][e]);
            }
        }
        top = lanes_fold(top, 4, [](f32 a, f32 b) { return fmaxf(a, b); });
        f32 before = relative(max, top);
        max = top, sum *= before;
        for (u32 j = 0; j < 16; j++)
            for (u32 e = 0; e < 4; e++) out[j][e] *= before;
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
#pragma unroll
            for (u32 e = 0; e < 2; e++) {
                s[n][e] = first + n * 8 + 2 * t + e < end ? relative(s[n][e], max) : 0.0f;
                sum += s[n][e];
            }
            whole[n] = pair(s[n][0], s[n][1], weight());
            rest[n] = pair(s[n][0] - low(whole[n], weight()), s[n][1] - high(whole[n], weight()), weight());
        }
#pragma unroll
        for (u32 c = 0; c < 2; c++)
#pragma unroll
            for (u32 j = 0; j < 8; j++)
                mma(out[c * 8 + j], whole[0], rest[0], whole[1], rest[1], column(v[0][0][c], v[0][1][c], j),
                    column(v[1][0][c], v[1][1][c], j), weight());
    }
};

__device__ inline uint4 piece(const weight* p, bool inside) { return inside ? once16(p) : make_uint4(0, 0, 0, 0); }

// Leaves what keys first .. end give for the heads in shared memory: sums relative to maxima, one set a warp.
__device__ inline void attend(u64 first, u64 end, u32 heads, const scalar* q, const weight* k, u64 k_stride, const weight* v,
                              u64 v_stride, u32 head_dim, f32 scale, f32 (*out)[HEADS][DIM + 4], f32 (*peaks)[HEADS][2]) {
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    uint4 query[4], key[2][4], value[2][2][2];
    auto load_keys = [&](u64 j) {
#pragma unroll
        for (u32 n = 0; n < 2; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                key[n][i] = piece(k + (j + n * 8 + g) * k_stride + i * 32 + t * 8,
                                  j + n * 8 + g < end && i * 32 + t * 8 < head_dim);
    };
    auto load_values = [&](u64 j) {
#pragma unroll
        for (u32 n = 0; n < 2; n++)
#pragma unroll
            for (u32 e = 0; e < 4; e++)
                value[n][e / 2][e % 2] = piece(v + (j + n * 8 + 2 * t + e / 2) * v_stride + e % 2 * 64 + g * 8,
                                               j + n * 8 + 2 * t + e / 2 < end && e % 2 * 64 + g * 8 < head_dim);
    };
    u64 j = first + warp * KEYS;
    load_keys(j), load_values(j);
#pragma unroll
    for (u32 i = 0; i < 4; i++)
        query[i] = g < heads && i * 32 + t * 8 < head_dim ? fresh16(q + g * head_dim + i * 32 + t * 8) : make_uint4(0, 0, 0, 0);
    State state;
    for (; j < end; j += 8 * KEYS) {
        state.take(query, key, value, j, end, scale);
        load_keys(j + 8 * KEYS), load_values(j + 8 * KEYS);
    }
    state.sum = lanes_fold(state.sum, 4, [](f32 a, f32 b) { return a + b; });
    if (t == 0) peaks[warp][g][0] = state.max, peaks[warp][g][1] = state.sum;
#pragma unroll
    for (u32 c = 0; c < 2; c++)
#pragma unroll
        for (u32 e = 0; e < 8; e++)
            for (u32 half = 0; half < 2; half++)
                out[warp][g][c * 64 + 16 * t + half * 8 + e] = state.out[c * 8 + e][half] + state.out[c * 8 + e][half + 2];
    __syncthreads();
}

// Folds n outputs, each relative to its own maximum and `step` apart, in order; at(i) gives where the i-th begins: maximum,
// sum, columns.
template <class At> __device__ inline f32 fold(u32 n, u32 column, f32& max, f32& sum, At at) {
    f32 total = 0.0f, peak[16], part[16], value[16];
    max = -infinity(), sum = 0.0f;
    for (u32 first = 0; first < n; first += 16) {
#pragma unroll
        for (u32 i = 0; i < 16; i++) {
            const f32* p = at(min(first + i, n - 1));
            peak[i] = __ldcg(p), part[i] = __ldcg(p + 1), value[i] = __ldcg(p + 2 + column);
        }
        f32 top = max;
#pragma unroll
        for (u32 i = 0; i < 16; i++) top = fmaxf(top, peak[i]);
        f32 before = relative(max, top);
        max = top, sum *= before, total *= before;
#pragma unroll
        for (u32 i = 0; i < 16; i++) {
            f32 share = first + i < n ? relative(peak[i], max) : 0.0f;
            sum += first + i < n ? part[i] * share : 0.0f, total += first + i < n ? value[i] * share : 0.0f;
        }
    }
    return total;
}

// Scores with +inf, or -inf alone, have no softmax.
__device__ inline f32 quotient(f32 total, f32 max, f32 sum) { return fabsf(max) < infinity() ? total / sum : not_a_number(); }

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
