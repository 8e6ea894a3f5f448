// sample: id = the first id, in the order of ids, whose cumulated weight exceeds draw * total / 2^64, the weight of id i being
//         floor(2^40 * exp((l[i] - max l) / temperature)) after penalty, top-k, top-p and min-p; then position += 1
//
// shape   logits: [vocab]   history: [context]   penalized, weights: scratch, [vocab]   id, position: [1]
// launch  grid = 1, block = 1024
// needs   vocab <= 2^22; parameters in their ranges; least = min(ceil(min_p * 2^40), 2^40)
// how     all choices are made in integers. top-k and top-p keep what lies above a threshold of (ordered logit, complement
//         of id), found digit by digit from histograms of counts or weights. The weights are computed in f64 by IEEE
//         operations that nothing contracts, so that every backend has the same bits.
// cost    reads the logits once and the scratch up to 20 times, from the cache; 84 operations in f64 per logit

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

// f(row, column) once for each eighth column of [rows, cols], spread over the whole grid.
template <class F> __device__ inline void for_each_eight(u64 rows, u64 cols, F f) {
    u64 eights = (cols + 7) / 8, down, row, across, tile, at;
    u32 lanes = lanes_for(eights, blockDim.x), high = blockDim.x / lanes;
    divide(eights + lanes - 1, lanes, across, at);
    divide(rows + high - 1, high, down, at);
    for (tile = blockIdx.x; tile < across * down; tile += gridDim.x) {
        divide(tile, across, row, at);
        row = row * high + threadIdx.x / lanes;
        u64 column = (at * lanes + threadIdx.x % lanes) * 8;
        if (row < rows && column < cols) f(row, column);
    }
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

// An integer that grows with v; equal for 0 and -0.
__device__ inline u32 order(f32 v) {
    u32 bits = __float_as_uint(__fadd_rn(v, 0.0f));
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): four words from a seed and a counter.

__device__ inline uint4 philox(u64 seed, u64 counter) {
    u32 key0 = (u32)seed, key1 = (u32)(seed >> 32);
    uint4 c = make_uint4((u32)counter, (u32)(counter >> 32), 0, 0);
    for (u32 round = 0; round < 10; round++) {
        u64 a = (u64)c.x * 0xd2511f53u, b = (u64)c.z * 0xcd9e8d57u;
        c = make_uint4((u32)(b >> 32) ^ c.y ^ key0, (u32)b, (u32)(a >> 32) ^ c.w ^ key1, (u32)a);
        key0 += 0x9e3779b9u, key1 += 0xbb67ae85u;
    }
    return c;
}
// Weights of ids and the steps that select among them, for one block. Needs common.cuh.

// a / k correctly rounded for k in 1 ..= 14: the quotient by the rounded reciprocal, corrected once by its exact remainder
// (Markstein 1990).
__device__ inline f64 divided(f64 a, f64 k, f64 reciprocal) {
    f64 q = __dmul_rn(a, reciprocal);
    return __fma_rn(__fma_rn(-q, k, a), reciprocal, q);
}

// floor(2^40 * e^x) for x <= 0, by the operations of `backend_api::ops::weight` in their order.
__device__ inline u64 weight_of(f32 x) {
    f64 y = __dmul_rn((f64)x, 1.4426950408889634074), whole = floor(y);
    if (!(whole >= -41.0)) return 0;
    f64 t = __dmul_rn(__dadd_rn(y, -whole), 0.69314718055994530942), series = 1.0;
#pragma unroll
    for (i32 k = 14; k > 0; k--)
        series = __dadd_rn(1.0, divided(__dmul_rn(series, t), (f64)k, 1.0 / (f64)k));
    return __double2ull_rz(__dmul_rn(series, 1099511627776.0)) >> (u32)-whole;
}

// The ids that may still be chosen: those of weight above 0.
struct Row {
    const f32* logits;
    u64* weights;
    u32 vocab;

    // Grows with the logit; of equal ones, the lower id is above. Distinct for all ids.
    __device__ u64 key(u32 i) const { return (u64)order(logits[i]) << 32 | ~i; }

    // value(i) of every id folded, for every thread.
    template <class V, class F> __device__ u64 fold(u64 start, V value, F f) const {
        for (u32 i = threadIdx.x; i < vocab; i += blockDim.x) start = f(start, value(i));
        return block_fold(start, f);
    }

    __device__ u64 total() const {
        return fold(0, [this](u32 i) { return weights[i]; }, [](u64 a, u64 b) { return a + b; });
    }

    // Keeps the fewest ids, by key from above, whose measures reach `wanted`; all if they never do.
    template <class F> __device__ void keep(u64 wanted, F measure) const {
        __shared__ u64 bins[256], above, prefix;
        if (threadIdx.x == 0) above = prefix = 0;
        bool whole = false;
        for (i32 shift = 56; shift >= 0 && !whole; shift -= 8) {
            if (threadIdx.x < 256) bins[threadIdx.x] = 0;
            __syncthreads();
            u64 high = prefix;
            for (u32 i = threadIdx.x; i < vocab; i += blockDim.x) {
                u64 k = key(i), part = measure(weights[i]);
                if (part > 0 && (shift == 56 || k >> (shift + 8) == high)) atomicAdd(bins + (k >> shift & 255), part);
            }
            __syncthreads();
            if (threadIdx.x == 0) {
                u32 bin = 256;
                u64 sum = above;
                while (bin > 0 && sum < wanted) sum += bins[--bin];
                if (sum >= wanted && bin < 256) above = sum - bins[bin];
                prefix = high << 8 | (sum < wanted ? 0 : bin);
                // The whole bin is kept, or there is too little of everything: no lower digit decides.
                bins[0] = sum <= wanted;
            }
            __syncthreads();
            whole = bins[0];
            if (whole) {
                if (threadIdx.x == 0) prefix <<= shift;
            }
            __syncthreads();
        }
        for (u32 i = threadIdx.x; i < vocab; i += blockDim.x)
            if (key(i) < prefix) weights[i] = 0;
        __syncthreads();
    }

    // The first id whose cumulated weight exceeds `point`, which is less than the total. Each warp sums one stretch of ids;
    // the one that holds the point looks through its own.
    __device__ u32 at(u64 point) const {
        __shared__ u64 sums[32];
        __shared__ u32 found;
        u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, stretch = (vocab + 31) / 32;
        u32 begin = min(warp * stretch, vocab), end = min(begin + stretch, vocab);
        u64 sum = 0, before = 0;
        for (u32 i = begin + lane; i < end; i += 32) sum += weights[i];
        sum = lanes_fold(sum, 32, [](u64 a, u64 b) { return a + b; });
        if (lane == 0) sums[warp] = sum;
        if (threadIdx.x == 0) found = 0xffffffffu;
        __syncthreads();
        for (u32 w = 0; w < warp; w++) before += sums[w];
        if (before <= point && point < before + sum) {
            for (u32 base = begin; base < end; base += 32) {
                u64 own = base + lane < end ? weights[base + lane] : 0, upto = own;
                for (u32 step = 1; step < 32; step *= 2) {
                    u64 lower = __shfl_up_sync(0xffffffffu, upto, step);
                    if (lane >= step) upto += lower;
                }
                if (before + upto - own <= point && point < before + upto) found = base + lane;
                before += __shfl_sync(0xffffffffu, upto, 31);
            }
        }
        __syncthreads();
        return found;
    }
};

// The id of one row; 2^32 - 1 if the logits allow no choice.
__device__ inline u32 choose(const Row& row, f32 temperature, u64 top_k, f32 top_p, u64 least, u64 draw) {
    u64 best = row.fold(0, [&](u32 i) { return row.key(i); }, [](u64 a, u64 b) { return a > b ? a : b; });
    bool unordered = false;
    for (u32 i = threadIdx.x; i < row.vocab; i += blockDim.x) unordered |= row.logits[i] != row.logits[i];
    u32 likeliest = ~(u32)best;
    if (__syncthreads_or(unordered) || row.vocab == 0) return 0xffffffffu;
    f32 max = row.logits[likeliest];
    if (fabsf(max) == infinity()) return 0xffffffffu;
    if (temperature == 0.0f) return likeliest;
    for (u32 i = threadIdx.x; i < row.vocab; i += blockDim.x)
        row.weights[i] = weight_of(__fdiv_rn(__fsub_rn(row.logits[i], max), temperature));
    __syncthreads();
    if (top_k > 0) row.keep(top_k, [](u64 weight) { return (u64)(weight > 0); });
    if (top_p < 1.0f) {
        f64 mass = __dmul_rn((f64)top_p, __ull2double_rn(row.total()));
        row.keep(__double2ull_ru(mass), [](u64 weight) { return weight; });
    }
    for (u32 i = threadIdx.x; i < row.vocab; i += blockDim.x)
        if (row.weights[i] < least) row.weights[i] = 0;
    __syncthreads();
    return row.at(__umul64hi(draw, row.total()));
}

extern "C" __global__ void __launch_bounds__(1024)
sample(u32* id, u32* position, u32* history, u64 context, const scalar* logits, u32 vocab, f32* penalized, u64* weights,
       f32 repetition_penalty, f32 temperature, u64 top_k, f32 top_p, u64 least, u64 seed) {
    u32 here = *position, next = here + 1;
    for (u32 i = threadIdx.x; i < vocab; i += blockDim.x) penalized[i] = to_f32(logits[i]);
    __syncthreads();
    u64 seen = min((u64)here + 1, context);
    for (u64 i = threadIdx.x; i < seen && repetition_penalty != 1.0f; i += blockDim.x) {
        u32 token = history[i];
        if (token >= vocab) continue;
        // Threads that meet the same id write the same value, made from the logit as it was given.
        f32 l = to_f32(logits[token]);
        penalized[token] = l > 0.0f ? __fdiv_rn(l, repetition_penalty) : __fmul_rn(l, repetition_penalty);
    }
    __syncthreads();
    uint4 random = philox(seed, next);
    u32 chosen = choose(Row{penalized, weights, vocab}, temperature, top_k, top_p, least, (u64)random.x << 32 | random.y);
    __syncthreads();
    if (threadIdx.x == 0) {
        *id = chosen;
        *position = next;
        if (next < context) history[next] = chosen;
    }
}
