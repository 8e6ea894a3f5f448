// attention_prefill_wgmma: out[r, h] = softmax(scale * q[r, h] . k[j, g])_j . v[j, g], j in max(0, end - window) .. end,
//                          end = min(positions[r], capacity - 1) + 1, g = h / group: for many rows, on Hopper
//
// shape   q, out: [rows, n_kv_heads * group * head_dim]   k, v: [capacity, n_kv_heads * head_dim]   positions: [rows]
// launch  grid = any number of blocks, which stride over tiles of 128 queries; block = 384; shared = 163840
// needs   head_dim <= 128, a multiple of 8; rows of each operand aligned to 16 bytes; capacity + 128, rows * group < 2^32; out
//         apart from the rest; keys, values: maps of k, v as [capacity or less, n_kv_heads, head_dim], boxes [128, 1, 64]
// how     a block takes tiles of 128 queries that share keys. Three warps copy queries; a thread has the copy engine bring
//         keys, and values, of 128 keys at a time to a ring of four slots. Two groups of four warps take 64 queries each:
//         scores by wgmma, a running maximum, weights rounded to 16 bits in registers, sums by wgmma. Scores are computed
//         while the sums before them are, and products of one group while the other computes weights
// cost    4 * head_dim operations per query and key; reads the keys and values of a tile once, from the cache at best

#include "maps.cuh"
#include "weigh.cuh"

const u32 ROWS = 128, SLOTS = 4, COPIERS = 96;

// In shared memory: queries, then keys, values, keys, values, .. of all the tiles of the block.
template <u32 DIM> struct Store {
    static const u32 KEYS = DIM > 128 ? 64 : 128, COLS = DIM < 128 ? DIM : 128;
    Ring<1, ROWS * DIM * 2> queries;
    Ring<SLOTS, KEYS * DIM * 2> ring;

    __device__ Store(u32 barriers)
        : queries{shared_address(dynamic), barriers}, ring{shared_address(dynamic) + ROWS * DIM * 2, barriers + 16} {}
    __device__ static u32 steps(const Seen& seen) { return (seen.end - seen.begin + KEYS - 1) / KEYS; }
    // Steps end with the last key: none behind it is read. The first may begin before key 0, where all is 0.
    __device__ static u32 key(const Seen& seen, u32 step) { return seen.end - (steps(seen) - step) * KEYS; }
};

struct Maps { const TensorMap &keys, &values; };

// What tile number `turn` of the block needs: queries, by three warps, and keys and values, by another; `item` counts those.
template <u32 DIM> __device__ inline void copy_tile(const Store<DIM>& to, const Prompt& of, u32 first, u32 turn) {
    to.queries.wait_empty(turn);
    copy_queries<DIM, ROWS, COPIERS>(to.queries.slot(turn), of, first);
    copies_end_group(), copies_wait<0>();
    to.queries.fill(turn);
}
template <u32 DIM>
__device__ inline void fetch_tile(const Store<DIM>& to, const Maps& maps, const Prompt& of, u32 first, u32& item) {
    const u32 KEYS = Store<DIM>::KEYS;
    Seen seen = bounds(of, first, ROWS).any;
    for (u32 i = 0; i < 2 * to.steps(seen); i++, item++) {
        to.ring.wait_empty(item);
        if (threadIdx.x % 32 != 0) continue;
        u32 full = to.ring.full + item % SLOTS * 8, slot = to.ring.slot(item);
        barrier_expect(full, KEYS * DIM * 2);
        for (u32 c = 0; c < DIM; c += 64)
            fetch(slot + c * KEYS * 2, i % 2 ? maps.values : maps.keys, c, of.kv_head, to.key(seen, i / 2), full);
    }
}

// Bits of this warp's queries that must be computed again.
template <u32 DIM>
__device__ inline u32 consume(const Store<DIM>& from, const Prompt& of, u32 first, u32 side, u32 turn, u32& item) {
    const u32 KEYS = Store<DIM>::KEYS, COLS = Store<DIM>::COLS;
    u32 weights[KEYS / 16][4];
    auto mine = [&] { return first + thread_anew() / 32 * 16 - 64; };
    f32 log2_scale = of.scale * 1.44269504f, s[KEYS / 8][4], before[2];
    Bounds seen = bounds(of, first, ROWS);
    u32 steps = from.steps(seen.any);
    State<DIM / COLS, COLS / 8> state;
    auto weigh = [&](u32 step) {
        u32 j = from.key(seen.any, step);
        take(s);
        from.ring.leave(item);
        if (step + 1 == steps) from.queries.leave(turn);
        if (step == 0 || j < seen.all.begin || j + KEYS > seen.all.end) mask<KEYS>(s, of, mine(), thread_anew() % 32, j);
        state.template weigh<KEYS>(s, before, log2_scale);
    };
    auto narrow_all = [&] {
#pragma unroll
        for (u32 at = 0; at < KEYS / 16; at++) narrow(weights[at], s[2 * at], s[2 * at + 1]);
    };
    // The two groups issue their products in turns.
    from.queries.wait_full(turn);
    meeting_wait(1 + side);
    from.ring.wait_full(item);
    products_begin();
    multiply_panels<DIM, ROWS>(s, from.queries.slot(turn) + side * 64 * 128, from.ring.slot(item));
    meeting_announce(2 - side);
    products_wait<0>();
    weigh(0);
    narrow_all();
    for (u32 step = 1; step < steps; step++) {
        item += 2;
        meeting_wait(1 + side);
        from.ring.wait_full(item);
        products_begin();
        multiply_panels<DIM, ROWS>(s, from.queries.slot(turn) + side * 64 * 128, from.ring.slot(item));
        from.ring.wait_full(item - 1);
        products_begin();
        multiply_weights(state.out, weights, from.ring.slot(item - 1));
        meeting_announce(2 - side);
        products_wait<1>();
        weigh(step);
        products_wait<0>();
        take_all(state.out);
        from.ring.leave(item - 1);
        state.shrink(before);
        narrow_all();
    }
    item += 2;
    from.ring.wait_full(item - 1);
    products_begin();
    multiply_weights(state.out, weights, from.ring.slot(item - 1));
    products_wait<0>();
    take_all(state.out);
    from.ring.leave(item - 1);
    return state.finish(of, mine(), thread_anew() % 32, log2_scale);
}

// By the role of four warps: copying, or computing.
template <u32 DIM> __device__ inline void run(Prompt& of, const Maps& maps, u32 n_kv_heads, u32 barriers) {
    Store<DIM> store(barriers);
    // The same for all threads of a warp, as the compiler does not know of an index.
    u32 role = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0), item = 0;
    if (role == 0) {
        registers_shrink<40>();
        bool copies = __shfl_sync(0xffffffffu, threadIdx.x, 0) < COPIERS;
        return for_each_tile<ROWS>(of, n_kv_heads, [&](u32 first, u32 turn) {
            if (copies) copy_tile<DIM>(store, of, first, turn);
            else fetch_tile<DIM>(store, maps, of, first, item);
        });
    }
    registers_grow<232>();
    if (role == 2) meeting_announce(1);
    for_each_tile<ROWS>(of, n_kv_heads, [&](u32 first, u32 turn) {
        u32 again = consume<DIM>(store, of, first, role - 1, turn, item);
        for (; again; again &= again - 1) attend_slowly(of, first + thread_anew() / 32 * 16 - 64 + __ffs(again) - 1);
    });
    if (role == 1) meeting_wait(1);
}

extern "C" __global__ void __launch_bounds__(384)
attention_prefill_wgmma(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride,
                        const weight* v, u64 v_stride, const __grid_constant__ TensorMap keys,
                        const __grid_constant__ TensorMap values, const u32* positions, u64 rows, u64 capacity, u64 window,
                        u32 n_kv_heads, u32 group, u32 head_dim, f32 scale) {
    __shared__ u64 barriers[2 + 2 * SLOTS];
    u32 first = shared_address(barriers), i = threadIdx.x;
    Prompt of = {out, q, k, v, positions, out_stride, q_stride, k_stride, v_stride, capacity, window, (u32)rows, group,
                 head_dim, 0, scale};
    if (i < 2 + 2 * SLOTS) barrier_init(first + i * 8, i == 0 ? COPIERS : i - 2 < SLOTS ? 1 : 8);
    show_copies_to_products();
    __syncthreads();
    run<128>(of, {keys, values}, n_kv_heads, first);
}
