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

#include "common.cuh"
#include "order.cuh"
#include "philox.cuh"
#include "together.cuh"
#include "sample.cuh"
#include "cuts.cuh"

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
