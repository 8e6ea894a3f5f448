// silu: out[r, c] = x[r, c] / (1 + exp(-x[r, c]))
//
// shape   out, x: [rows, cols], rows by stride
// launch  grid = pieces of 16 KiB, or less: blocks stride over them; block = 256
// needs   out is x itself or apart from it
// how     one thread per eight columns of as many tiles (eights.cuh) as make 64 bytes of them, one after the other: many
//         threads, with few registers each, hide the time that loads take
// cost    moves 2 * rows * cols elements

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
// Elementwise kernels: a walk over eight columns at a time, spread over the whole grid. Needs common.cuh.

// Each eighth column of a part of [rows, cols]: see for_each_eight.
template <u32 AT_ONCE, u32 TIMES, bool WHOLE, class Load, class Finish>
__device__ inline void eights_of(u64 rows, u64 cols, bool wide, Load load, Finish finish) {
    u32 shift = 32 - __clz((u32)min((cols + 7) / 8, (u64)blockDim.x) - 1), high = blockDim.x >> shift;
    u64 across = ((cols + 7) / 8 + (1 << shift) - 1) >> shift, row[AT_ONCE], column[AT_ONCE], line, at;
#pragma unroll 1
    for (u64 tile = (u64)blockIdx.x * AT_ONCE * TIMES;; tile += (u64)gridDim.x * AT_ONCE * TIMES) {
        divide(tile, across, line, at);
        if (line * high >= rows) return;
#pragma unroll 1
        for (u32 time = 0; time < TIMES; time++) {
            decltype(load(0, 0, 8, true)) held[AT_ONCE];
#pragma unroll
            for (u32 i = 0; i < AT_ONCE; i++) {
                row[i] = line * high + (threadIdx.x >> shift);
                column[i] = (at << shift | threadIdx.x & (1 << shift) - 1) * 8;
                if (++at == across) at = 0, line++;
            }
#pragma unroll
            for (u32 i = 0; i < AT_ONCE; i++)
                if (row[i] < rows && column[i] < cols)
                    held[i] = load(row[i], column[i], WHOLE ? 8 : cols - column[i], WHOLE || wide);
#pragma unroll
            for (u32 i = 0; i < AT_ONCE; i++)
                if (row[i] < rows && column[i] < cols)
                    finish(row[i], column[i], WHOLE ? 8 : cols - column[i], WHOLE || wide, held[i]);
        }
    }
}

// finish(row, column, left, wide, load(row, column, left, wide)) once for each eighth column of [rows, cols], spread over
// the whole grid; `left` columns are left in the row, and what is `wide` begins at multiples of 16 bytes. A block takes
// TIMES times AT_ONCE tiles, of as many eights as it has threads (a power of two), that lie one after the other; AT_ONCE
// are loaded before the first is finished.
template <u32 AT_ONCE, u32 TIMES, class Load, class Finish>
__device__ inline void for_each_eight(u64 rows, u64 cols, bool wide, Load load, Finish finish) {
    if (wide && cols % 8 == 0) eights_of<AT_ONCE, TIMES, true>(rows, cols, wide, load, finish);
    else eights_of<1, AT_ONCE * TIMES, false>(rows, cols, wide, load, finish);
}
// What silu and swiglu share. Needs common.cuh.

// x / (1 + exp(-x)), off by at most (8 + |x|) 2^-23 of it; -0 where exp(-x) leaves the range of f32.
__device__ inline f32 silu_of(f32 x) {
    f32 quarter, inverse;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(quarter) : "f"(fmaf(x, -1.4426950408889634f, -2.0f)));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(0.25f + quarter));
    return x * 0.25f * inverse;
}

extern "C" __global__ void __launch_bounds__(256)
silu(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, u64 rows, u64 cols) {
    bool wide = aligned(x, x_stride, rows) && aligned(out, out_stride, rows);
    auto load = [=](u64 row, u64 c, u64 left, bool wide) { return hold8(x + row * x_stride + c, left, wide); };
    for_each_eight<1, 8 / sizeof(scalar)>(rows, cols, wide, load, [=](u64 row, u64 c, u64 left, bool wide, Eight<scalar> held) {
        f32 v[8];
        unpack(held, v);
#pragma unroll
        for (u32 i = 0; i < 8; i++) v[i] = silu_of(v[i]);
        store8(out + row * out_stride + c, left, wide, v);
    });
}
