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
