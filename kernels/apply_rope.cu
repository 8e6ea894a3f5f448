// apply_rope: with h = head_dim / 2, p = positions[r] and i < h of each head: out[i] = x[i] cos[p, i] - x[i + h] sin[p, i]
//             and out[i + h] = x[i + h] cos[p, i] + x[i] sin[p, i]
//
// shape   out, x: [rows, cols], cols a multiple of head_dim   cos, sin: [table_rows, h]   positions: [rows]
// launch  grid = rows, or as many short ones to a block as it has threads for, or less: blocks stride over rows; block = 256
// needs   out is x itself or apart from it; head_dim even
// how     one thread per eight pairs; the threads of a row go along it, so that its position and tables stay at hand. A row
//         whose position lies outside the tables becomes NaN
// cost    moves 2 * rows * cols elements, and the tables' rows from the cache

#include "common.cuh"

// Eight elements at a multiple of 16 bytes; in words that the compiler does not take apart.
template <class E> __device__ inline void store_whole(E* p, const f32 (&v)[8]) { store8_wide(p, v); }
__device__ inline void store_whole(f32* p, const f32 (&v)[8]) {
#pragma unroll
    for (u32 i = 0; i < 8; i += 4)
        asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};"
                     :: "l"(p + i), "f"(v[i]), "f"(v[i + 1]), "f"(v[i + 2]), "f"(v[i + 3]) : "memory");
}

// Turns eight pairs that begin at multiples of 16 bytes, as do their cosines and sines.
__device__ inline void turn_eight(scalar* to, const scalar* from, u32 half, const f32* cos, const f32* sin) {
    Eight<scalar> first = hold8(from, 8, true), second = hold8(from + half, 8, true);
    f32 a[8], b[8];
    unpack(first, a), unpack(second, b);
#pragma unroll
    for (u32 j = 0; j < 8; j += 4) {
        float4 c = *(const float4*)(cos + j), s = *(const float4*)(sin + j);
        f32 cosines[4] = {c.x, c.y, c.z, c.w}, sines[4] = {s.x, s.y, s.z, s.w};
#pragma unroll
        for (u32 e = 0; e < 4; e++) {
            f32 x1 = a[j + e], x2 = b[j + e];
            a[j + e] = x1 * cosines[e] - x2 * sines[e];
            b[j + e] = x2 * cosines[e] + x1 * sines[e];
        }
    }
    store_whole(to, a), store_whole(to + half, b);
}

// Turns the pairs first, first + step ... of a row one by one, or makes them NaN.
__device__ inline void turn_each(scalar* to, const scalar* from, u64 half, u64 pairs, const f32* cos, const f32* sin,
                                 bool inside, u32 first, u32 step) {
#pragma unroll 1
    for (u64 pair = first; pair < pairs; pair += step) {
        u64 head, i;
        divide(pair, half, head, i);
        u64 low = 2 * pair - i;
        f32 cosine = inside ? cos[i] : not_a_number(), sine = inside ? sin[i] : not_a_number();
        f32 x1 = to_f32(from[low]), x2 = to_f32(from[low + half]);
        store(to + low, x1 * cosine - x2 * sine);
        store(to + low + half, x2 * cosine + x1 * sine);
    }
}

const u32 BLOCKS = sizeof(scalar) == 4 ? 4 : 0;  // of a multiprocessor, at least; 0: as ptxas sees fit

extern "C" __global__ void __launch_bounds__(256, BLOCKS)
apply_rope(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const f32* cos, u64 cos_stride, const f32* sin,
           u64 sin_stride, const u32* positions, u64 rows, u64 cols, u64 head_dim, u64 table_rows) {
    u64 half = head_dim / 2, pairs = cols / 2;
    bool wide = cols >> 32 == 0 && half % 8 == 0 && aligned(x, x_stride, rows) && aligned(out, out_stride, rows)
        && aligned(cos, cos_stride, table_rows) && aligned(sin, sin_stride, table_rows);
    u32 lanes = lanes_for((pairs + 7) / 8, blockDim.x), lane = threadIdx.x % lanes, high = blockDim.x / lanes;
#pragma unroll 1
    for (u64 row = (u64)blockIdx.x * high + threadIdx.x / lanes; row < rows; row += (u64)gridDim.x * high) {
        u64 p = positions[row];
        const f32 *cosines = cos + p * cos_stride, *sines = sin + p * sin_stride;
        const scalar* from = x + row * x_stride;
        scalar* to = out + row * out_stride;
        if (!wide || p >= table_rows) {
            turn_each(to, from, half, pairs, cosines, sines, p < table_rows, lane, lanes);
            continue;
        }
#pragma unroll 1
        for (u32 pair = lane * 8; pair < (u32)pairs; pair += lanes * 8) {
            u32 i = pair % (u32)half, low = 2 * pair - i;
            turn_eight(to + low, from + low, half, cosines + i, sines + i);
        }
    }
}
