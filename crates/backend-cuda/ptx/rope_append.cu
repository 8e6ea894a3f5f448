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

// Types, conversions, 16-byte access and reductions in a fixed order: what every kernel shares.
//
// SCALAR names the type of activations, WEIGHT that of weights and caches. Nothing of NVIDIA's headers is used, so
// that NVRTC needs no include path. Half-precision types are plain structs: all arithmetic is done in f32.

using u16 = unsigned short;
using i32 = int;
using u32 = unsigned int;
using u64 = unsigned long long;
using f32 = float;
using f64 = double;

struct f16 { u16 bits; };
struct bf16 { u16 bits; };

typedef SCALAR scalar;
typedef WEIGHT weight;

__device__ inline f32 not_a_number() { return __uint_as_float(0x7fc00000u); }
__device__ inline f32 infinity() { return __uint_as_float(0x7f800000u); }

__device__ inline f32 to_f32(f32 v) { return v; }
__device__ inline f32 to_f32(bf16 v) { return __uint_as_float((u32)v.bits << 16); }
__device__ inline f32 to_f32(f16 v) {
    f32 wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(v.bits));
    return wide;
}

// Rounds to nearest, ties to even; a NaN stays one.
__device__ inline void store(f32* p, f32 v) { *p = v; }
__device__ inline void store(f16* p, f32 v) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(p->bits) : "f"(v)); }
__device__ inline void store(bf16* p, f32 v) {
    u32 bits = __float_as_uint(v);
    p->bits = v != v ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Writes v, or adds it to what is there.
template <class E> __device__ inline void put(E* p, f32 v, u32 accumulate) { store(p, accumulate ? to_f32(*p) + v : v); }

// Whether each of `rows` rows begins at a multiple of 16 bytes.
template <class E> __device__ inline bool aligned(const E* p, u64 stride, u64 rows) {
    return ((u64)p | (rows > 1 ? stride * sizeof(E) : 0)) % 16 == 0;
}

// Eight elements as they lie in memory.
template <class E> struct Eight { uint4 words; };
template <> struct Eight<f32> { float4 low, high; };

__device__ inline void unpack(Eight<bf16> v, f32 (&out)[8]) {
    u32 words[4] = {v.words.x, v.words.y, v.words.z, v.words.w};
    for (u32 i = 0; i < 4; i++) {
        out[2 * i] = __uint_as_float(words[i] << 16);
        out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}
__device__ inline void unpack(Eight<f16> v, f32 (&out)[8]) {
    u32 words[4] = {v.words.x, v.words.y, v.words.z, v.words.w};
    for (u32 i = 0; i < 8; i++) out[i] = to_f32(f16{(u16)(words[i / 2] >> i % 2 * 16)});
}
__device__ inline void unpack(Eight<f32> v, f32 (&out)[8]) {
    out[0] = v.low.x, out[1] = v.low.y, out[2] = v.low.z, out[3] = v.low.w;
    out[4] = v.high.x, out[5] = v.high.y, out[6] = v.high.z, out[7] = v.high.w;
}
template <class E> __device__ inline void load8_wide(const E* p, f32 (&out)[8]) { unpack(*(const Eight<E>*)p, out); }

// Elements p[0 .. min(left, 8)], the rest 0; `wide` promises that p is aligned to 16 bytes.
template <class E> __device__ inline void load8(const E* p, u64 left, bool wide, f32 (&out)[8]) {
    if (wide && left >= 8) return load8_wide(p, out);
#pragma unroll
    for (u32 i = 0; i < 8; i++) out[i] = i < left ? to_f32(p[i]) : 0.0f;
}

// The same elements as they lie in memory, to be unpacked later, so that other loads get under way before they arrive.
template <class E> __device__ inline Eight<E> hold8(const E* p, u64 left, bool wide) {
    if (wide && left >= 8) return *(const Eight<E>*)p;
    Eight<E> held = {};
#pragma unroll
    for (u32 i = 0; i < 8; i++)
        if (i < left) ((E*)&held)[i] = p[i];
    return held;
}

// Two neighbours as one word.
template <class E> __device__ inline u32 pair(f32 low, f32 high, E) {
    E a, b;
    store(&a, low), store(&b, high);
    return a.bits | (u32)b.bits << 16;
}
#if __CUDA_ARCH__ >= 800
__device__ inline u32 pair(f32 low, f32 high, bf16) {
    u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}
#endif

template <class E> __device__ inline void store8_wide(E* p, const f32 (&v)[8]) {
    u32 words[4];
    for (u32 i = 0; i < 4; i++) words[i] = pair(v[2 * i], v[2 * i + 1], E());
    *(uint4*)p = make_uint4(words[0], words[1], words[2], words[3]);
}
__device__ inline void store8_wide(f32* p, const f32 (&v)[8]) {
    ((float4*)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4*)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

// Writes p[0 .. min(left, 8)].
template <class E> __device__ inline void store8(E* p, u64 left, bool wide, const f32 (&v)[8]) {
    if (wide && left >= 8) return store8_wide(p, v);
#pragma unroll
    for (u32 i = 0; i < 8; i++)
        if (i < left) store(p + i, v[i]);
}

// The least power of two of lanes, at most `most`, that holds `n` items of one each.
__device__ inline u32 lanes_for(u64 n, u32 most) {
    u32 lanes = 1;
    while (lanes < most && lanes < n) lanes *= 2;
    return lanes;
}

// a / b and a % b, by 32 bits where that suffices, which is several times as fast.
__device__ inline void divide(u64 a, u64 b, u64& quotient, u64& rest) {
    if ((a | b) >> 32) quotient = a / b, rest = a % b;
    else quotient = (u32)a / (u32)b, rest = (u32)a % (u32)b;
}

// v of `lanes` neighbouring lanes folded by a commutative f, in an order that depends on nothing else.
template <class V, class F> __device__ inline V lanes_fold(V v, u32 lanes, F f) {
    for (u32 step = lanes / 2; step > 0; step /= 2) v = f(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

// v of every thread of the block folded, for every thread.
template <class V, class F> __device__ inline V block_fold(V v, F f) {
    __shared__ V slots[32];
    v = lanes_fold(v, 32, f);
    __syncthreads();
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = v;
    __syncthreads();
    V all = slots[0];
    for (u32 warp = 1; warp < blockDim.x / 32; warp++) all = f(all, slots[warp]);
    return all;
}
__device__ inline f32 block_sum(f32 v) {
    return block_fold(v, [](f32 a, f32 b) { return a + b; });
}

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
