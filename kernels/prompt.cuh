// Attention of many rows: what the kernels for tensor cores share. A query is one row's head; those that share keys are
// numbered row by row, so that a block's have nearly the same keys.

#include "tiles.cuh"

// The thread's index, read anew: so that no register holds it, and what follows from it, all along.
__device__ inline u32 thread_anew() {
    u32 index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
}

// The operands, and the head of keys and values that is attended to, with as many queries.
struct Prompt {
    scalar* out;
    const scalar* q;
    const weight *k, *v;
    const u32* positions;
    u64 out_stride, q_stride, k_stride, v_stride, capacity, window;
    u32 rows, group, head_dim, kv_head;
    f32 scale;

    // Computed anew each time: registers are for sums.
    __device__ u32 queries() const {
        u32 n;
        asm volatile("mul.lo.u32 %0, %1, %2;" : "=r"(n) : "r"(rows), "r"(group));
        return n;
    }
    __device__ u64 q_at(u32 query) const { return query / group * q_stride + (kv_head * group + query % group) * head_dim; }
    __device__ u64 out_at(u32 query) const { return query / group * out_stride + (kv_head * group + query % group) * head_dim; }
};

// Keys begin .. end.
struct Seen {
    u32 begin, end;
};

__device__ inline Seen seen_by(const Prompt& of, u32 row) {
    u64 end = min((u64)of.positions[row], of.capacity - 1) + 1;
    return {(u32)(end > of.window ? end - of.window : 0), (u32)end};
}

// Keys that any of `n` queries sees, and keys that all of them see.
struct Bounds {
    Seen any, all;
};

__device__ inline Bounds bounds(const Prompt& of, u32 first, u32 n) {
    Bounds b = {{0xffffffffu, 0}, {0, 0xffffffffu}};
    u32 last = min(of.queries() - first, n) - 1 + first;
    for (u32 row = first / of.group + threadIdx.x % 32; row <= last / of.group; row += 32) {
        Seen s = seen_by(of, row);
        b.any.begin = min(b.any.begin, s.begin), b.all.begin = max(b.all.begin, s.begin);
        b.any.end = max(b.any.end, s.end), b.all.end = min(b.all.end, s.end);
    }
    const u32 LANES = 0xffffffffu;
    return {{__reduce_min_sync(LANES, b.any.begin), __reduce_max_sync(LANES, b.any.end)},
            {__reduce_max_sync(LANES, b.all.begin), __reduce_min_sync(LANES, b.all.end)}};
}

// f(first query, turn) for each tile of ROWS queries of this block. Tiles with most keys come first, and turns go forth and
// back, so that all blocks get about as many keys.
template <u32 ROWS, class F> __device__ inline void for_each_tile(Prompt& of, u32 n_kv_heads, F f) {
    u32 tiles = (of.queries() + ROWS - 1) / ROWS * n_kv_heads;
    for (u32 turn = 0;; turn++) {
        u32 tile = turn * gridDim.x + (turn % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
        if (tile >= tiles) return;
        of.kv_head = tile % n_kv_heads;
        f((tiles - 1 - tile) / n_kv_heads * ROWS, turn);
    }
}

// Copies ROWS queries as panels of 64 columns, with 0 beyond the last column; repeats the last query.
template <u32 DIM, u32 ROWS, u32 THREADS> __device__ inline void copy_queries(u32 to, const Prompt& of, u32 first) {
    u32 piece = threadIdx.x % 8;
    for (u32 row = threadIdx.x / 8; row < ROWS; row += THREADS / 8) {
        u32 query = min(first + row, of.queries() - 1);
        const scalar* from = of.q + of.q_at(query) + piece * 8;
#pragma unroll
        for (u32 panel = 0; panel < DIM / 64; panel++)
            copy16(to + panel * ROWS * 128 + swizzled<8>(row, piece), from + panel * 64, panel * 64 + piece * 8 < of.head_dim);
    }
}

// exp(x - max) that counts x = max = -inf as 1, which a larger maximum scales to 0 later.
__device__ inline f32 relative(f32 x, f32 max) { return x == max ? 1.0f : expf(x - max); }

// One query, a key at a time: by a warp, for what the fast way gives up.
__device__ inline void attend_slowly(const Prompt& of, u32 query) {
    u32 column = thread_anew() % 32 * 8, left = of.head_dim - min(column, of.head_dim);
    u64 head = (u64)of.kv_head * of.head_dim + column;
    f32 q[8], key[8], value[8], out[8] = {}, max = -infinity(), sum = 0.0f;
    load8(of.q + of.q_at(query) + column, left, true, q);
    Seen seen = seen_by(of, query / of.group);
#pragma unroll 1
    for (u32 j = seen.begin; j < seen.end; j++) {
        load8(of.k + j * of.k_stride + head, left, true, key);
        load8(of.v + j * of.v_stride + head, left, true, value);
        f32 dot = 0.0f;
        for (u32 e = 0; e < 8; e++) dot += q[e] * key[e];
        dot = lanes_fold(dot, 32, [](f32 a, f32 b) { return a + b; }) * of.scale;
        f32 top = fmaxf(max, dot), before = relative(max, top), now = relative(dot, top);
        max = top, sum = sum * before + now;
        for (u32 e = 0; e < 8; e++) out[e] = out[e] * before + now * value[e];
    }
    // Scores with +inf, or -inf alone, have no softmax.
    for (u32 e = 0; e < 8; e++) out[e] = fabsf(max) < infinity() ? out[e] / sum : not_a_number();
    store8(of.out + of.out_at(query) + column, left, true, out);
}
