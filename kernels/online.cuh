// Sums weighted by a softmax, in parts that are each relative to the maximum of their own scores. Needs common.cuh.

// exp(x - max) that counts x = max = -inf as 1, which a larger maximum scales to 0 later.
__device__ inline f32 relative(f32 x, f32 max) { return x == max ? 1.0f : expf(x - max); }

// Folds n parts, each relative to its own maximum, in order; get(i) gives maximum, sum and value of the i-th.
template <class Get> __device__ inline f32 fold(u32 n, f32& max, f32& sum, Get get) {
    f32 total = 0.0f, peak[8], part[8], value[8];
    max = -infinity(), sum = 0.0f;
    for (u32 first = 0; first < n; first += 8) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) get(min(first + i, n - 1), peak[i], part[i], value[i]);
        f32 top = max;
#pragma unroll
        for (u32 i = 0; i < 8; i++) top = fmaxf(top, peak[i]);
        f32 before = relative(max, top);
        max = top, sum *= before, total *= before;
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            f32 share = first + i < n ? relative(peak[i], max) : 0.0f;
            sum += first + i < n ? part[i] * share : 0.0f, total += first + i < n ? value[i] * share : 0.0f;
        }
    }
    return total;
}

// Scores with +inf, or -inf alone, have no softmax.
__device__ inline f32 quotient(f32 total, f32 max, f32 sum) { return fabsf(max) < infinity() ? total / sum : not_a_number(); }
