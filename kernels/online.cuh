// Sums weighted by a softmax, in parts that are each relative to the maximum of their own scores. Needs common.cuh.

// exp(x - max) that counts x = max = -inf as 1, which a larger maximum scales to 0 later.
__device__ inline f32 relative(f32 x, f32 max) { return x == max ? 1.0f : expf(x - max); }

// Folds n outputs, each relative to its own maximum and `step` apart, in order; at(i) gives where the i-th begins: maximum,
// sum, columns.
template <class At> __device__ inline f32 fold(u32 n, u32 column, f32& max, f32& sum, At at) {
    f32 total = 0.0f, peak[16], part[16], value[16];
    max = -infinity(), sum = 0.0f;
    for (u32 first = 0; first < n; first += 16) {
#pragma unroll
        for (u32 i = 0; i < 16; i++) {
            const f32* p = at(min(first + i, n - 1));
            peak[i] = __ldcg(p), part[i] = __ldcg(p + 1), value[i] = __ldcg(p + 2 + column);
        }
        f32 top = max;
#pragma unroll
        for (u32 i = 0; i < 16; i++) top = fmaxf(top, peak[i]);
        f32 before = relative(max, top);
        max = top, sum *= before, total *= before;
#pragma unroll
        for (u32 i = 0; i < 16; i++) {
            f32 share = first + i < n ? relative(peak[i], max) : 0.0f;
            sum += first + i < n ? part[i] * share : 0.0f, total += first + i < n ? value[i] * share : 0.0f;
        }
    }
    return total;
}

// Scores with +inf, or -inf alone, have no softmax.
__device__ inline f32 quotient(f32 total, f32 max, f32 sum) { return fabsf(max) < infinity() ? total / sum : not_a_number(); }
