// sample: id = the first id, in the order of ids, whose cumulated weight exceeds draw * total / 2^64, the weight of id i being
//         floor(2^40 * exp((l[i] - max l) / temperature)) after penalty, top-k, top-p and min-p; then position += 1
//
// shape   logits: [vocab]   history: [context]   penalized, weights: scratch, [vocab]   id, position: [1]
//         space: scratch, [SPACE]   counters: [2], 0
// launch  grid: any number of blocks up to 1024 that run at once; block = 1024
// needs   vocab <= 2^22; parameters in their ranges; least = min(ceil(min_p * 2^40), 2^40)
// how     every block takes a stretch of ids, and waits for the others between steps. All choices are made in integers. top-k
//         and top-p keep what lies above a threshold of (ordered logit, complement of id), found digit by digit from
//         histograms of counts and weights until few ids are left to compare. The weights are computed in f64 by IEEE
//         operations that nothing contracts, so that every backend has the same bits.
// cost    reads the logits once, the scratch some 4 times; 84 operations in f64 per logit; 1 to 6 waits, more where many logits are nearly equal

const unsigned SPACE = 15361;

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
// Steps of a grid whose blocks all run at once. Needs common.cuh.

// Counters: blocks that arrived so far, blocks that left; both start and end at 0.
struct Together {
    u32* counters;
    u32 arrived;

    __device__ Together(u32* counters) : counters(counters), arrived(0) {}

    // Waits for all blocks, whose writes are then seen past L1. Called by all threads.
    __device__ void wait() {
        __syncthreads();
        if (threadIdx.x == 0 && gridDim.x > 1) {
            arrived += gridDim.x;
            __threadfence();
            atomicAdd(counters, 1);
            while (*(volatile u32*)counters < arrived) {}
            __threadfence();
        }
        __syncthreads();
    }

    // After the last wait.
    __device__ void leave() const {
        if (threadIdx.x > 0 || arrived == 0) return;
        if (atomicAdd(counters + 1, 1) + 1 == gridDim.x) counters[0] = counters[1] = 0;
    }
};

// v of every thread of a block of 1024 folded, for every thread.
template <class V, class F> __device__ inline V whole_fold(V v, F f) {
    __shared__ V slots[32];
    v = lanes_fold(v, 32, f);
    __syncthreads();
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = v;
    __syncthreads();
    return lanes_fold(slots[threadIdx.x % 32], 32, f);
}

// v of this thread and of those before it, added.
template <class V> __device__ inline V block_scan(V v) {
    __shared__ V slots[32];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (u32 step = 1; step < 32; step *= 2) {
        V lower = __shfl_up_sync(0xffffffffu, v, step);
        if (lane >= step) v += lower;
    }
    __syncthreads();
    if (lane == 31) slots[warp] = v;
    __syncthreads();
    return v + lanes_fold(lane < warp ? slots[lane] : (V)0, 32, [](V a, V b) { return a + b; });
}
// Weights of ids and their order, for a grid whose blocks take a stretch of ids each. Needs common.cuh.

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

const u32 BINS = 2048, LISTED = 256, MOST_BLOCKS = 1024;

// What blocks tell each other. Histograms: the last for the first digit, the others in turn for those that follow.
struct Space {
    u64 masses[4][BINS], keys[2][LISTED], weights[2][LISTED], bests[MOST_BLOCKS], sums[MOST_BLOCKS];
    u32 counts[4][BINS], lengths[2];
};
static_assert(sizeof(Space) == 8 * SPACE, "the launcher allocates it");

// Ids of a smaller place are kept, and of this place those with keys from `key` on; what they weigh.
struct Cut {
    u32 place;
    u64 key, mass;
};

// The ids, of which each block takes begin .. end.
struct Row {
    const f32* logits;
    u64* weights;
    u32 begin, end;
    f32 max, temperature;

    // Grows with the logit; of equal ones, the lower id is above. Distinct for all ids.
    __device__ u64 key(u32 i) const { return (u64)order(logits[i]) << 32 | ~i; }

    __device__ f32 exponent(f32 logit) const { return __fdiv_rn(__fsub_rn(logit, max), temperature); }

    // The logit of a key; 0 for -0.
    __device__ static f32 logit(u64 key) {
        u32 ordered = key >> 32;
        return __uint_as_float(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
    }

    // 22 bits that do not grow with the logit: fine steps near the maximum, coarser ones away from it, as far as weights reach.
    __device__ static u32 place(f32 exponent) {
        u32 bits = __float_as_uint(__fadd_rn(fabsf(exponent), 0x1p-11f)) - 0x3a000000u;
        return min(bits >> 5, BINS * BINS - 1);
    }

    template <class F> __device__ void for_own(F f) const {
        for (u32 i = begin + threadIdx.x; i < end; i += blockDim.x) f(i);
    }

    __device__ bool keeps(const Cut& cut, u32 i) const {
        u32 at = place(exponent(logits[i]));
        return at < cut.place || at == cut.place && key(i) >= cut.key;
    }
};
// How all blocks of a grid find the ids that are kept: digit by digit from histograms of counts and weights, until few are
// left to be compared. Needs common.cuh, together.cuh and sample.cuh.

// The bin by which a measure, summed from the top, reaches what is wanted.
struct Bin {
    u32 index, count;
    // What lies above it, and itself.
    u64 measure, mass, own_mass;
    bool found, whole;
    // Of all bins.
    u64 total;
};

struct Cutter {
    const Row& row;
    Space& space;
    Together& together;
    Cut cut;
    u32 turn, cuts;

    // Histograms of the first digit and of the first turn must be empty before any block counts.
    __device__ void clear(u32 histogram) const {
        for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < BINS; i += gridDim.x * blockDim.x)
            space.masses[histogram][i] = space.counts[histogram][i] = 0;
    }

    __device__ void count(u32 histogram, u32 bin, u64 weight) const {
        atomicAdd(space.counts[histogram] + bin, 1u);
        atomicAdd(space.masses[histogram] + bin, weight);
    }

    // The first digit and the second divide places, the others keys.
    __device__ static u32 shift(u32 digit) { return digit < 7 ? 53 - 11 * (digit - 2) : 0; }

    // Whether the digits before this one are those of the cut.
    __device__ static bool agrees(u32 digit, u32 place, u64 key, const Cut& cut) {
        if (digit == 1) return place / BINS == cut.place / BINS;
        return place == cut.place && (digit == 2 || key >> shift(digit - 1) == cut.key >> shift(digit - 1));
    }

    // f(i, place, key) for ids of this block that are still in question at a digit: kept so far, and of the cut's bin.
    template <class F> __device__ void for_rest(u32 digit, const Cut& kept, F f) const {
        row.for_own([&](u32 i) {
            u32 place = Row::place(row.exponent(row.logits[i]));
            u64 key = row.key(i);
            bool rest = row.weights[i] > 0 && agrees(digit, place, key, cut);
            if (rest && (place < kept.place || place == kept.place && key >= kept.key)) f(i, place, key);
        });
    }

    // Where the measure, weights or counts, reaches `wanted`, if above this histogram are `measure` and `mass`.
    __device__ Bin find(u32 histogram, bool by_mass, u64 wanted, u64 measure, u64 mass) const {
        __shared__ Bin result;
        u32 counts[2], count = 0;
        u64 masses[2], sum = 0;
        for (u32 n = 0; n < 2; n++) {
            counts[n] = __ldcg(space.counts[histogram] + threadIdx.x * 2 + n);
            masses[n] = __ldcg(space.masses[histogram] + threadIdx.x * 2 + n);
            count += counts[n], sum += masses[n];
        }
        u32 counted = block_scan(count);
        u64 summed = block_scan(sum);
        if (threadIdx.x + 1 == blockDim.x) result.total = mass + summed, result.found = result.whole = false;
        __syncthreads();
        measure += by_mass ? summed - sum : counted - count, mass += summed - sum;
        for (u32 n = 0; n < 2; n++) {
            u64 own = by_mass ? masses[n] : counts[n];
            if (measure < wanted && wanted <= measure + own)
                result = {threadIdx.x * 2 + n, counts[n], measure, mass, masses[n], true, wanted == measure + own, result.total};
            measure += own, mass += masses[n];
        }
        __syncthreads();
        Bin bin = result;
        __syncthreads();
        return bin;
    }

    // Compares the few ids that are left at a digit with one another.
    __device__ void rank(u32 digit, const Cut& kept, bool by_mass, u64 wanted, const Bin& bin) {
        __shared__ u64 keys[LISTED], weights[LISTED];
        __shared__ Cut found;
        u32* length = space.lengths + cuts % 2;
        u64 *to_keys = space.keys[cuts % 2], *to_weights = space.weights[cuts % 2];
        for_rest(digit, kept, [&](u32 i, u32, u64 key) {
            u32 at = atomicAdd(length, 1u);
            if (at < LISTED) to_keys[at] = key, to_weights[at] = row.weights[i];
        });
        together.wait();
        u32 n = min(__ldcg(length), LISTED), own = threadIdx.x / 4;
        if (threadIdx.x < n) keys[threadIdx.x] = __ldcg(to_keys + threadIdx.x), weights[threadIdx.x] = __ldcg(to_weights + threadIdx.x);
        if (threadIdx.x == 0) found = {cut.place, 0, 0};
        __syncthreads();
        u64 key = own < n ? keys[own] : 0, mass = 0;
        u32 count = 0;
        for (u32 i = threadIdx.x % 4; own < n && i < n; i += 4)
            if (keys[i] > key) count++, mass += weights[i];
        count = lanes_fold(count, 4, [](u32 a, u32 b) { return a + b; });
        mass = lanes_fold(mass, 4, [](u64 a, u64 b) { return a + b; });
        if (own < n && threadIdx.x % 4 == 0) {
            u64 before = bin.measure + (by_mass ? mass : count), measure = by_mass ? weights[own] : 1;
            if (before < wanted && wanted <= before + measure) found = {Row::place(row.exponent(Row::logit(key))), key, bin.mass + mass + weights[own]};
        }
        __syncthreads();
        cut = found;
    }

    // Keeps the fewest of the ids that are kept so far, by key from above, whose measures reach `wanted`; all if they never do.
    __device__ void keep(bool by_mass, u64 wanted) {
        Cut kept = cut;
        Bin bin = find(3, by_mass, wanted, 0, 0);
        if (!bin.found) {
            cut.mass = bin.total;
            return;
        }
        cut = {bin.index * BINS + BINS - 1, 0, 0};
        for (u32 digit = 1; digit < 8 && !bin.whole; digit++) {
            if (bin.count <= LISTED) {
                rank(digit, kept, by_mass, wanted, bin);
                cuts++;
                return;
            }
            u32 histogram = turn++ % 3;
            clear((histogram + 1) % 3);
            for_rest(digit, kept, [&](u32 i, u32 place, u64 key) {
                count(histogram, digit == 1 ? place % BINS : BINS - 1 - (key >> shift(digit)) % BINS, row.weights[i]);
            });
            together.wait();
            bin = find(histogram, by_mass, wanted, bin.measure, bin.mass);
            if (digit == 1) cut.place -= BINS - 1 - bin.index;
            else cut.key |= (u64)(BINS - 1 - bin.index) << shift(digit);
        }
        cut.mass = bin.mass + bin.own_mass;
        cuts++;
    }
};

// Logits of ids begin .. end after the penalty; their largest key, all bits set for a NaN.
__device__ inline u64 penalize(f32* penalized, const scalar* logits, u32 begin, u32 end, const u32* history, u64 seen, f32 penalty) {
    for (u32 i = begin + threadIdx.x; i < end; i += blockDim.x) penalized[i] = to_f32(logits[i]);
    if (penalty != 1.0f) {
        __syncthreads();
        for (u64 i = threadIdx.x; i < seen; i += blockDim.x) {
            u32 token = history[i];
            if (token < begin || token >= end) continue;
            // Threads that meet the same id write the same value, made from the logit as it was given.
            f32 l = to_f32(logits[token]);
            penalized[token] = l > 0.0f ? __fdiv_rn(l, penalty) : __fmul_rn(l, penalty);
        }
        __syncthreads();
    }
    u64 best = 0;
    for (u32 i = begin + threadIdx.x; i < end; i += blockDim.x) {
        u64 key = penalized[i] != penalized[i] ? ~0ull : (u64)order(penalized[i]) << 32 | ~i;
        best = max(best, key);
    }
    return whole_fold(best, [](u64 a, u64 b) { return max(a, b); });
}

// f(id) in one thread of one block: the id whose weight, added to those before, first exceeds the draw's share of all.
template <class F> __device__ inline void
draw(const Row& row, const Cut& cut, u64 least, u64 random, Space& space, Together& together, F f) {
    __shared__ u64 before;
    u64 own = 0;
    auto weight = [&](u32 i) { return row.weights[i] >= max(least, 1ull) && row.keeps(cut, i) ? row.weights[i] : 0; };
    row.for_own([&](u32 i) { own += weight(i); });
    own = whole_fold(own, [](u64 a, u64 b) { return a + b; });
    if (threadIdx.x == 0) space.sums[blockIdx.x] = own;
    together.wait();
    u64 sum = threadIdx.x < gridDim.x ? __ldcg(space.sums + threadIdx.x) : 0, upto = block_scan(sum);
    if (threadIdx.x == blockIdx.x) before = upto - sum;
    u64 point = __umul64hi(random, whole_fold(sum, [](u64 a, u64 b) { return a + b; })), from = before;
    if (point < from || point >= from + own) return;
    for (u32 base = row.begin; base < row.end; base += blockDim.x) {
        u32 i = base + threadIdx.x;
        u64 own = i < row.end ? weight(i) : 0, upto = from + block_scan(own);
        if (upto - own <= point && point < upto) f(i);
        from += whole_fold(own, [](u64 a, u64 b) { return a + b; });
    }
}

extern "C" __global__ void __launch_bounds__(1024)
sample(u32* id, u32* position, u32* history, u64 context, const scalar* logits, u32 vocab, f32* penalized, u64* weights,
       u64* space, u32* counters, f32 repetition_penalty, f32 temperature, u64 top_k, f32 top_p, u64 least, u64 seed) {
    Space& shared = *(Space*)space;
    Together together(counters);
    u32 next = *position + 1, each = (vocab + gridDim.x - 1) / gridDim.x;
    auto finish = [=](u32 chosen) {
        *id = chosen;
        *position = next;
        if (next < context) history[next] = chosen;
    };
    Row row = {penalized, weights, min(blockIdx.x * each, vocab), min(blockIdx.x * each + each, vocab), 0.0f, temperature};
    Cutter cutter = {row, shared, together, {BINS * BINS - 1, 0, 0}, 0, 0};
    cutter.clear(0), cutter.clear(3);
    if (blockIdx.x == 0 && threadIdx.x < 2) shared.lengths[threadIdx.x] = 0;
    u64 best = penalize(penalized, logits, row.begin, row.end, history, min((u64)next, context), repetition_penalty);
    if (threadIdx.x == 0) shared.bests[blockIdx.x] = best;
    together.wait();
    best = threadIdx.x < gridDim.x ? __ldcg(shared.bests + threadIdx.x) : 0;
    best = whole_fold(best, [](u64 a, u64 b) { return max(a, b); });
    row.max = Row::logit(best);
    // A NaN's key is no finite logit's; nor is that of no logits at all.
    bool none = !(fabsf(row.max) < infinity());
    if (none || temperature == 0.0f) {
        if (blockIdx.x == 0 && threadIdx.x == 0) finish(none ? 0xffffffffu : ~(u32)best);
        return together.leave();
    }
    bool cuts = top_k > 0 || top_p < 1.0f;
    row.for_own([&](u32 i) {
        f32 exponent = row.exponent(penalized[i]);
        u64 weight = weight_of(exponent);
        weights[i] = weight;
        if (weight > 0 && cuts) cutter.count(3, Row::place(exponent) / BINS, weight);
    });
    if (cuts) {
        together.wait();
        cutter.keep(false, top_k > 0 ? top_k : ~0ull);
    }
    if (top_p < 1.0f) cutter.keep(true, __double2ull_ru(__dmul_rn((f64)top_p, __ull2double_rn(cutter.cut.mass))));
    uint4 random = philox(seed, next);
    draw(row, cutter.cut, least, (u64)random.x << 32 | random.y, shared, together, finish);
    together.leave();
}
