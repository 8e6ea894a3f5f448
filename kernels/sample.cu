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

#include "common.cuh"
#include "philox.cuh"
#include "sample.cuh"

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
