// attention_prefill_mma: out[r, h] = softmax(scale * q[r, h] . k[j, g])_j . v[j, g], j in max(0, end - window) .. end,
//                        end = min(positions[r], capacity - 1) + 1, g = h / group: for many rows
//
// shape   q, out: [rows, n_kv_heads * group * head_dim]   k, v: [capacity, n_kv_heads * head_dim]   positions: [rows]
// launch  grid = n_kv_heads * ceil(rows * group / tile), tile = 64 if head_dim > 128, else 128; block = 128; shared = 98304,
//         of which it needs (tile + 128) * 2 * head_dim, head_dim rounded up to 64, 128 or 256
// needs   head_dim <= 256, a multiple of 8; every row of each operand aligned to 16 bytes; capacity, rows * group < 2^32;
//         out apart from the rest
// how     a block takes a tile of queries that share keys, its warps 16 or 32 of them: products by mma.sync of 64 keys at a
//         time, a running maximum, weights rounded to 16 bits. Values are on their way to shared memory while scores are
//         computed, keys while values are summed. Tiles with most keys come first. Keys that no query sees are never read.
// cost    4 * head_dim operations per query and key; reads the keys and values of a tile once, from the cache at best

#include "fragments.cuh"
#include "weigh.cuh"

const u32 KEYS = 64, THREADS = 128;

// Scores of this warp's queries.
template <u32 DIM, u32 PATCHES>
__device__ inline void score(f32 (&s)[PATCHES][KEYS / 8][4], u32 queries, u32 keys) {
    u32 lane = threadIdx.x % 32;
    queries += swizzled<8>(threadIdx.x / 32 * 16 * PATCHES + lane % 16, lane / 16);
    keys += swizzled<8>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (u32 i = 0; i < PATCHES * KEYS / 2; i++) s[i / (KEYS / 2)][i / 4 % (KEYS / 8)][i % 4] = 0.0f;
#pragma unroll
    for (u32 at = 0; at < DIM / 16; at++) {
        u32 left[PATCHES][4];
#pragma unroll
        for (u32 p = 0; p < PATCHES; p++)
            load_fragments(left[p], (queries ^ at % 4 * 32) + at / 4 * PATCHES * 64 * 128 + p * 16 * 128);
#pragma unroll
        for (u32 f = 0; f < KEYS / 16; f++) {
            u32 right[4];
            load_fragments(right, (keys ^ at % 4 * 32) + at / 4 * KEYS * 128 + f * 16 * 128);
#pragma unroll
            for (u32 p = 0; p < PATCHES; p++) {
                multiply(s[p][2 * f], left[p], right[0], right[1]);
                multiply(s[p][2 * f + 1], left[p], right[2], right[3]);
            }
        }
    }
}

// Adds values times weights.
template <u32 DIM, u32 PATCHES>
__device__ inline void sum(State<1, DIM / 8> (&state)[PATCHES], const f32 (&s)[PATCHES][KEYS / 8][4], u32 values) {
    values += swizzled<8>(threadIdx.x % 16, threadIdx.x / 16 % 2);
#pragma unroll
    for (u32 at = 0; at < KEYS / 16; at++) {
        u32 left[PATCHES][4];
#pragma unroll
        for (u32 p = 0; p < PATCHES; p++) narrow(left[p], s[p][2 * at], s[p][2 * at + 1]);
#pragma unroll
        for (u32 f = 0; f < DIM / 16; f++) {
            u32 right[4];
            load_fragments_turned(right, (values ^ f % 4 * 32) + f / 4 * KEYS * 128 + at * 16 * 128);
#pragma unroll
            for (u32 p = 0; p < PATCHES; p++) {
                multiply(state[p].out[0][2 * f], left[p], right[0], right[1]);
                multiply(state[p].out[0][2 * f + 1], left[p], right[2], right[3]);
            }
        }
    }
}

// Bits of this warp's queries that must be computed again.
template <u32 DIM, u32 PATCHES> __device__ inline u32 run(const Prompt& of, u32 tile) {
    const u32 ROWS = PATCHES * 64;
    u32 queries = shared_address(dynamic), keys = queries + ROWS * DIM * 2, values = keys + KEYS * DIM * 2;
    u32 first = tile * ROWS;
    u32 mine = (tile * 4 + threadIdx.x / 32) * 16 * PATCHES;
    f32 log2_scale = of.scale * 1.44269504f;
    Bounds seen = bounds(of, first, ROWS);
    auto copy = [&](u32 to, const weight* from, u64 stride, u64 j) {
        // Registers are too few for multiples of the strides all the way through the loop.
        asm volatile("" : "+l"(stride));
        if (j < seen.any.end)
            copy_panels<DIM, KEYS, THREADS>(to, from + j * stride + of.kv_head * of.head_dim, stride, seen.any.end - j,
                                            of.head_dim);
        copies_end_group();
    };
    copy_queries<DIM, ROWS, THREADS>(queries, of, first);
    copy(keys, of.k, of.k_stride, seen.any.begin);
    State<1, DIM / 8> state[PATCHES];
    for (u32 j = seen.any.begin; j < seen.any.end; j += KEYS) {
        f32 s[PATCHES][KEYS / 8][4], before[2];
        copies_wait<0>();
        __syncthreads();
        copy(values, of.v, of.v_stride, j);
        score<DIM, PATCHES>(s, queries, keys);
        copies_wait<0>();
        __syncthreads();
        copy(keys, of.k, of.k_stride, j + KEYS);
        bool whole = seen.all.begin <= j && j + KEYS <= seen.all.end;
#pragma unroll
        for (u32 p = 0; p < PATCHES; p++) {
            if (!whole) mask<KEYS>(s[p], of, mine + 16 * p, threadIdx.x % 32, j);
            state[p].template weigh<KEYS>(s[p], before, log2_scale);
            state[p].shrink(before);
        }
        sum<DIM, PATCHES>(state, s, values);
    }
    u32 again = 0;
#pragma unroll
    for (u32 p = 0; p < PATCHES; p++) again |= state[p].finish(of, mine + 16 * p, threadIdx.x % 32, log2_scale) << 16 * p;
    return again;
}

extern "C" __global__ void __launch_bounds__(128)
attention_prefill_mma(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride,
                      const weight* v, u64 v_stride, const u32* positions, u64 rows, u64 capacity, u64 window,
                      u32 n_kv_heads, u32 group, u32 head_dim, f32 scale) {
    u32 tile = (gridDim.x - 1 - blockIdx.x) / n_kv_heads;
    Prompt of = {out, q, k, v, positions, out_stride, q_stride, k_stride, v_stride, capacity, window, (u32)rows, group,
                 head_dim, blockIdx.x % n_kv_heads, scale};
    u32 again = head_dim <= 64 ? run<64, 2>(of, tile) : head_dim <= 128 ? run<128, 2>(of, tile) : run<256, 1>(of, tile);
    u32 first = (tile * 4 + threadIdx.x / 32) * (head_dim <= 128 ? 32 : 16);
    for (; again; again &= again - 1) attend_slowly(of, first + __ffs(again) - 1);
}
