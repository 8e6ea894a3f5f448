// attention: out[r, h] = softmax(scale * q[r, h] . k[j, g])_j . v[j, g], j in max(0, end - window) .. end,
//            end = min(positions[r], capacity - 1) + 1, g = h / group
//
// shape   q, out: [rows, n_kv_heads * group * head_dim]   k, v: [capacity, n_kv_heads * head_dim]   positions: [rows]
// launch  grid = rows * n_kv_heads * ceil(group / 4), or less: blocks stride over them; block = 256
// needs   head_dim <= 256; 1 <= capacity < 2^32; window >= 1; out apart from q, k, v
// how     a block takes one row and up to four query heads that share keys. The lanes that hold one key own eight columns
//         each of q, of the key and of the output; groups of lanes take every n-th key, with a running maximum and sums
//         relative to it, and meet in shared memory in a fixed order. Keys from `end` on are never read.
// cost    reads the keys and values that a row sees once per four query heads; 4 * head_dim operations per key and head

#include "common.cuh"

const u32 HEADS = 4;

// exp(x - max) that counts x = max = -inf as 1, which a larger maximum scales to 0 later.
__device__ inline f32 relative(f32 x, f32 max) { return x == max ? 1.0f : expf(x - max); }

struct State {
    f32 max[HEADS], sum[HEADS], out[HEADS][8];
};

// Takes one key and its value into the state; every lane of the key's group calls this, since they meet in shuffles.
__device__ inline void take(State& state, const f32 (&q)[HEADS][8], const f32 (&key)[8], const f32 (&value)[8],
                            bool seen, u32 lanes, f32 scale) {
#pragma unroll
    for (u32 h = 0; h < HEADS; h++) {
        f32 dot = 0.0f;
#pragma unroll
        for (u32 e = 0; e < 8; e++) dot += q[h][e] * key[e];
        dot = lanes_fold(dot, lanes, [](f32 a, f32 b) { return a + b; }) * scale;
        f32 max = seen ? fmaxf(state.max[h], dot) : state.max[h];
        f32 before = relative(state.max[h], max), now = seen ? relative(dot, max) : 0.0f;
        state.max[h] = max;
        state.sum[h] = state.sum[h] * before + now;
#pragma unroll
        for (u32 e = 0; e < 8; e++) state.out[h][e] = state.out[h][e] * before + now * value[e];
    }
}

// Folds the states of all groups of lanes for head h; the first group's lanes return columns of the result.
__device__ inline void meet(const State& state, u32 h, u32 lanes, f32 (&result)[8]) {
    __shared__ f32 maxima[256], sums[256], parts[256][8];
    __syncthreads();
    maxima[threadIdx.x] = state.max[h], sums[threadIdx.x] = state.sum[h];
#pragma unroll
    for (u32 e = 0; e < 8; e++) parts[threadIdx.x][e] = state.out[h][e];
    __syncthreads();
    if (threadIdx.x >= lanes) return;
    f32 max = -infinity(), sum = 0.0f, total[8] = {};
    for (u32 t = threadIdx.x; t < blockDim.x; t += lanes) max = fmaxf(max, maxima[t]);
    for (u32 t = threadIdx.x; t < blockDim.x; t += lanes) {
        f32 share = relative(maxima[t], max);
        sum += sums[t] * share;
        for (u32 e = 0; e < 8; e++) total[e] += parts[t][e] * share;
    }
    // Scores with +inf, or -inf alone, have no softmax.
    f32 inverse = fabsf(max) < infinity() ? 1.0f / sum : not_a_number();
    for (u32 e = 0; e < 8; e++) result[e] = total[e] * inverse;
}

extern "C" __global__ void __launch_bounds__(256)
attention(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride, const weight* v,
          u64 v_stride, const u32* positions, u64 rows, u64 capacity, u64 window, u32 n_kv_heads, u32 group,
          u32 head_dim, f32 scale) {
    u32 lanes = lanes_for((head_dim + 7) / 8, 32), column = threadIdx.x % lanes * 8, left = head_dim - min(column, head_dim);
    u32 parts = (group + HEADS - 1) / HEADS, groups = blockDim.x / lanes;
    bool even = head_dim % 8 == 0, wide_q = even && aligned(q, q_stride, rows), wide_out = even && aligned(out, out_stride, rows);
    bool wide = even && aligned(k, k_stride, capacity) && aligned(v, v_stride, capacity);
    for (u64 item = blockIdx.x; item < rows * n_kv_heads * parts; item += gridDim.x) {
        u64 row = item / parts / n_kv_heads, kv_head = item / parts % n_kv_heads;
        u32 first = item % parts * HEADS;
        u64 end = min((u64)positions[row], capacity - 1) + 1, begin = end > window ? end - window : 0;
        u64 q_column = (kv_head * group + first) * head_dim + column, kv_column = kv_head * head_dim + column;
        f32 query[HEADS][8];
        State state = {};
#pragma unroll
        for (u32 h = 0; h < HEADS; h++) {
            state.max[h] = -infinity();
            load8(q + row * q_stride + q_column + h * head_dim, first + h < group ? left : 0, wide_q, query[h]);
        }
        // All groups go round equally often, because lanes of a warp meet in shuffles.
        for (u64 base = begin; base < end; base += groups) {
            u64 j = base + threadIdx.x / lanes;
            f32 key[8], value[8];
            load8(k + j * k_stride + kv_column, j < end ? left : 0, wide, key);
            load8(v + j * v_stride + kv_column, j < end ? left : 0, wide, value);
            take(state, query, key, value, j < end, lanes, scale);
        }
#pragma unroll
        for (u32 h = 0; h < HEADS; h++) {
            f32 result[8];
            meet(state, h, lanes, result);
            if (threadIdx.x < lanes && first + h < group)
                store8(out + row * out_stride + q_column + h * head_dim, left, wide_out, result);
        }
    }
}
