// argmax: id[r] = argmax_c x[r, c], the lowest index of equal values; then position[r] += 1
//
// shape   x: [rows, cols], rows by stride   id, position: [rows]   partials: one per split of every row
//         counters: one per row, 0
// launch  grid = rows * splits, or less if splits = 1: blocks stride over rows; block = 256
// needs   cols < 2^32; position may be null
// how     a block takes the largest of (ordered value, complement of index), an integer of 64 bits, in a split of a row; the
//         block that comes last, the largest of all splits. A row with a NaN, or without a column, has the id 2^32 - 1.
// cost    moves rows * cols elements

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
// The order of logits as integers. Needs common.cuh.

// An integer that grows with v; equal for 0 and -0.
__device__ inline u32 order(f32 v) {
    u32 bits = __float_as_uint(__fadd_rn(v, 0.0f));
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
// Blocks that share an output: each leaves its part in memory, and the last to arrive puts them together in a fixed order.
// Needs common.cuh.

// Whether this block is the last of `parts`, whose writes it then sees. The counter starts and ends at 0. Called by all
// threads of the block.
__device__ inline bool last_of(u32* counter, u32 parts) {
    __shared__ u32 arrived;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        arrived = atomicAdd(counter, 1) + 1;
        if (arrived == parts) *counter = 0;
    }
    __syncthreads();
    bool last = arrived == parts;
    if (last) __threadfence();
    return last;
}

// Sum of p[i * step] for i < n, in order, sixteen on their way at a time.
__device__ inline f32 sum_of(const f32* p, u64 step, u32 n) {
    f32 sum = 0.0f, held[16];
    for (u32 first = 0; first < n; first += 16) {
#pragma unroll
        for (u32 i = 0; i < 16; i++) held[i] = first + i < n ? __ldcg(p + (first + i) * step) : 0.0f;
#pragma unroll
        for (u32 i = 0; i < 16; i++) sum += held[i];
    }
    return sum;
}

__device__ inline u64 block_max(u64 v) {
    return block_fold(v, [](u64 a, u64 b) { return a > b ? a : b; });
}

// The largest key of a row's columns begin .. end; all bits set for a NaN, none without a column.
__device__ inline u64 largest(const scalar* row, u64 begin, u64 end, bool wide) {
    u64 best = 0;
    for (u64 c = begin + threadIdx.x * 8; c < end; c += blockDim.x * 8) {
        f32 v[8];
        load8(row + c, end - c, wide, v);
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            u64 key = v[i] != v[i] ? ~0ull : (u64)order(v[i]) << 32 | (u32)~(c + i);
            best = c + i < end && key > best ? key : best;
        }
    }
    return block_max(best);
}

extern "C" __global__ void __launch_bounds__(256)
argmax(u32* id, u32* position, const scalar* x, u64 x_stride, u64 rows, u64 cols, u64* partials, u32* counters, u32 splits) {
    bool wide = aligned(x, x_stride, rows);
    // Splits begin where sixteen bytes do.
    u64 each = ((cols + splits - 1) / splits + 7) / 8 * 8;
    for (u64 item = blockIdx.x; item < rows * splits; item += gridDim.x) {
        u64 row = item / splits, begin = min(item % splits * each, cols);
        u64 best = largest(x + row * x_stride, begin, min(begin + each, cols), wide);
        if (splits > 1) {
            if (threadIdx.x == 0) partials[item] = best;
            if (!last_of(counters + row, splits)) continue;
            best = 0;
            for (u32 i = threadIdx.x; i < splits; i += blockDim.x) best = max(best, __ldcg(partials + row * splits + i));
            best = block_max(best);
        }
        if (threadIdx.x == 0) {
            id[row] = best == 0 || best == ~0ull ? 0xffffffffu : ~(u32)best;
            if (position) position[row] += 1;
        }
    }
}
