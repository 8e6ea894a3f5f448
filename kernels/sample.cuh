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
