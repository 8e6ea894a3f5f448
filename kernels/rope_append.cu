// rope_append: what follows the projections of an attention layer, for many rows, p = positions[r]: queries turned in place,
//              keys turned to keys[p], values copied to values[p]; turned as apply_rope does
//
// shape   qkv: [rows, (n_heads + 2 * n_kv_heads) * head_dim]   keys, values: [capacity, n_kv_heads * head_dim]
//         cos, sin: [table_rows, head_dim / 2]   positions: [rows]   rows by stride
// launch  grid = rows, or less: blocks stride over rows; block = 128
// needs   no two positions equal; head_dim even; operands apart from each other
// how     one block per row, a thread per eight pairs of every so many heads, whose loads are all issued before the first
//         store. A position outside the tables gives NaN, one outside the caches leaves them as they are
// cost    moves 2 * rows * (n_heads + 2 * n_kv_heads) * head_dim elements; each row of the tables once a block

#include "common.cuh"

const u32 HELD = 3;

template <class E> __device__ inline void write(E* p, const f32 (&v)[1]) { store(p, v[0]); }
template <class E> __device__ inline void write(E* p, const f32 (&v)[8]) { store8_wide(p, v); }

// A row: its heads, where they go, and its position's rows of the tables.
struct Row {
    scalar* qkv;
    weight *keys, *values;
    const f32 *cos, *sin;
    u32 n_heads, n_kv_heads, head_dim;
    bool inside, cached;  // the tables, the caches

    __device__ u32 half() const { return head_dim / 2; }
    __device__ u32 heads() const { return n_heads + 2 * n_kv_heads; }
    __device__ scalar* at(u32 head, u32 i) const { return qkv + (u64)head * head_dim + i; }

    // Turns pairs i .. i + N of a head that are loaded.
    template <u32 N>
    __device__ void turn(u32 head, u32 i, f32 (&low)[N], f32 (&high)[N], const f32 (&c)[N], const f32 (&s)[N]) const {
        bool is_query = head < n_heads, is_value = head >= n_heads + n_kv_heads;
        if (!is_value)
#pragma unroll
            for (u32 e = 0; e < N; e++) {
                f32 x = low[e], y = high[e];
                low[e] = x * c[e] - y * s[e], high[e] = y * c[e] + x * s[e];
            }
        if (is_query) write(at(head, i), low), write(at(head, i) + half(), high);
        else if (cached) {
            u32 kv_head = head - n_heads - (is_value ? n_kv_heads : 0);
            weight* to = (is_value ? values : keys) + (u64)kv_head * head_dim + i;
            write(to, low), write(to + half(), high);
        }
    }
    __device__ void factors(const f32* from, u32 i, f32 (&out)[1]) const { out[0] = inside ? from[i] : not_a_number(); }
    __device__ void factors(const f32* from, u32 i, f32 (&out)[8]) const {
        if (inside) load8_wide(from + i, out);
        else for (u32 e = 0; e < 8; e++) out[e] = not_a_number();
    }
};

// Eight pairs of heads head, head + step, ..; every row of every operand aligned to 16 bytes.
__device__ inline void turn_wide(const Row& row, u32 head, u32 step, u32 i) {
    f32 c[8], s[8], low[8], high[8];
    row.factors(row.cos, i, c), row.factors(row.sin, i, s);
    for (; head < row.heads(); head += HELD * step) {
        Eight<scalar> lows[HELD], highs[HELD];
#pragma unroll
        for (u32 h = 0; h < HELD; h++)
            if (head + h * step < row.heads()) {
                lows[h] = *(const Eight<scalar>*)row.at(head + h * step, i);
                highs[h] = *(const Eight<scalar>*)(row.at(head + h * step, i) + row.half());
            }
#pragma unroll
        for (u32 h = 0; h < HELD; h++)
            if (head + h * step < row.heads()) {
                unpack(lows[h], low), unpack(highs[h], high);
                row.turn(head + h * step, i, low, high, c, s);
            }
    }
}

extern "C" __global__ void __launch_bounds__(128)
rope_append(scalar* qkv, u64 qkv_stride, weight* keys, u64 keys_stride, weight* values, u64 values_stride,
            const f32* cos, u64 cos_stride, const f32* sin, u64 sin_stride, const u32* positions, u64 rows,
            u64 table_rows, u64 capacity, u32 n_heads, u32 n_kv_heads, u32 head_dim) {
    u32 half = head_dim / 2;
    bool wide = half % 8 == 0 && aligned(qkv, qkv_stride, rows) && aligned(keys, keys_stride, capacity)
        && aligned(values, values_stride, capacity) && aligned(cos, cos_stride, table_rows)
        && aligned(sin, sin_stride, table_rows);
    u32 width = wide ? 8 : 1, lanes = lanes_for((half + width - 1) / width, blockDim.x), step = blockDim.x / lanes;
    for (u64 r = blockIdx.x; r < rows; r += gridDim.x) {
        u64 p = positions[r];
        Row row = {qkv + r * qkv_stride, keys + p * keys_stride, values + p * values_stride, cos + p * cos_stride,
                   sin + p * sin_stride, n_heads, n_kv_heads, head_dim, p < table_rows, p < capacity};
        for (u32 i = threadIdx.x % lanes * width; i < half; i += lanes * width) {
            if (wide) turn_wide(row, threadIdx.x / lanes, step, i);
            else for (u32 head = threadIdx.x / lanes; head < row.heads(); head += step) {
                f32 c[1], s[1], low[1] = {to_f32(*row.at(head, i))}, high[1] = {to_f32(row.at(head, i)[half])};
                row.factors(row.cos, i, c), row.factors(row.sin, i, s);
                row.turn(head, i, low, high, c, s);
            }
        }
    }
}
