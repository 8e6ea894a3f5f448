// attention: out[r, h] = softmax(scale * q[r, h] . k[j, g])_j . v[j, g], j in max(0, end - window) .. end,
//            end = min(positions[r], capacity - 1) + 1, g = h / group
//
// shape   q, out: [rows, n_kv_heads * group * head_dim]   k, v: [capacity, n_kv_heads * head_dim]   positions: [rows]
//         partials: 4 * 260 per split of every tile, unused in clusters   counters: one per tile, 0
// launch  grid = rows * n_kv_heads * ceil(group / 4) tiles * splits, or less if splits = 1: blocks stride; block = 256;
//         clusters of `cluster` blocks: all splits, at most 8, or 1, as below compute capability 9.0
// needs   head_dim <= 256; 1 <= capacity < 2^32; window >= 1; out apart from the rest
// how     a block takes a tile, up to four query heads of a row that share keys, and a split of the keys. The lanes that
//         hold a key own eight columns each of q, of the key and of the output; groups of lanes take keys in turn, with
//         a running maximum and sums relative to it, and meet in shared memory in a fixed order; so do the splits, in
//         that of each block of a cluster, or in the block that comes last. Keys outside the window are never read.
// cost    reads the keys and values that a row sees once per four query heads; 4 * head_dim operations per key and head

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
// Overlap with the kernel before (programmatic dependent launch, from compute capability 9.0 on), and loads that go with it.
// Needs common.cuh.
//
// A kernel that is launched to overlap may run before its predecessor has finished: until `await_previous` it must touch
// only what no kernel in flight writes, and afterwards read through `fresh` what L1 may hold an older copy of.

#if __CUDA_ARCH__ >= 900
__device__ inline void await_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ inline void release_next() { asm volatile("griddepcontrol.launch_dependents;"); }
#else
__device__ inline void await_previous() {}
__device__ inline void release_next() {}
#endif

// 16 bytes past L1.
__device__ inline uint4 fresh16(const void* p) {
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
__device__ inline u32 fresh(const u32* p) {
    u32 v;
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
__device__ inline f32 fresh(const f32* p) { return __uint_as_float(fresh((const u32*)p)); }
template <class E> __device__ inline E fresh(const E* p) {
    E v;
    asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(v.bits) : "l"(p));
    return v;
}

// 16 bytes that are read once.
__device__ inline uint4 once16(const void* p) {
    uint4 v;
    asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

// 16 bytes that are read once, and that no kernel in flight writes.
__device__ inline uint4 weights16(const void* p) {
#if __CUDA_ARCH__ >= 700
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
#else
    return once16(p);
#endif
}

// 16 bytes past L1 to shared memory, where `fetched` has waited for those of this thread.
__device__ inline void fetch16(void* to, const void* from) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"((u32)__cvta_generic_to_shared(to)), "l"(from) : "memory");
#else
    *(uint4*)to = fresh16(from);
#endif
}
__device__ inline void fetched() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
// Blocks that share an output: each leaves its part in memory, and the last to arrive puts them together in a fixed order.
// Needs common.cuh.

// Whether this block is the last of `parts`, whose writes it then sees. The counter starts and ends at 0. Called by all
// threads of the block.
__device__ inline bool last_of(u32* counter, u32 parts) {
    __shared__ u32 arrived;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        arrived = atomicAdd(counter, 1) + 1;
        if (arrived == parts) *counter = 0;
    }
    __syncthreads();
    bool last = arrived == parts;
    if (last) __threadfence();
    return last;
}

// Sum of p[i * step] for i < n, in order, sixteen on their way at a time.
__device__ inline f32 sum_of(const f32* p, u64 step, u32 n) {
    f32 sum = 0.0f, held[16];
    for (u32 first = 0; first < n; first += 16) {
#pragma unroll
        for (u32 i = 0; i < 16; i++) held[i] = first + i < n ? __ldcg(p + (first + i) * step) : 0.0f;
#pragma unroll
        for (u32 i = 0; i < 16; i++) sum += held[i];
    }
    return sum;
}
// Blocks of a cluster, from compute capability 9.0 on, and what they leave in each other's shared memory. Needs common.cuh.

// A cluster's blocks wait for each other in two steps: what was written before the first is seen after the second. A block
// that has left counts as arrived.
__device__ inline void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");
#endif
}
__device__ inline void cluster_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
#endif
}

// The first step for a block that has only begun: nothing that it wrote need be seen, which spares a fence.
__device__ inline void cluster_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.relaxed.aligned;");
#endif
}

// The address that block `rank` of the cluster has where this one has `own`, in shared memory.
__device__ inline u32 across(const void* own, u32 rank) {
    u32 at = (u32)__cvta_generic_to_shared(own);
#if __CUDA_ARCH__ >= 900
    asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(at) : "r"(rank));
#endif
    return at;
}
__device__ inline void give(u32 at, f32 v) {
#if __CUDA_ARCH__ >= 900
    asm volatile("st.shared::cluster.f32 [%0], %1;" :: "r"(at), "f"(v) : "memory");
#endif
}
__device__ inline void give(u32 at, float2 v) {
#if __CUDA_ARCH__ >= 900
    asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" :: "r"(at), "f"(v.x), "f"(v.y) : "memory");
#endif
}
__device__ inline void give(u32 at, float4 v) {
#if __CUDA_ARCH__ >= 900
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};"
                 :: "r"(at), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
#endif
}
// Sums weighted by a softmax whose weights are powers of two, four columns at a time. Needs common.cuh.

const f32 LOG2_E = 1.4426950408889634f;

// 2^(x * scale - max) that counts x * scale = max = -inf as 1, which a larger maximum scales to 0 later. The product is not
// rounded, so that large scores cost no accuracy.
__device__ inline f32 share_of(f32 x, f32 scale, f32 max) {
    f32 y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(__fmaf_rn(x, scale, -max)));
    return x * scale == max ? 1.0f : y;
}
__device__ inline f32 share_of(f32 x, f32 max) { return share_of(x, 1.0f, max); }

// Four columns of a head, from parts that are each relative to their own maximum.
struct Four {
    f32 max = -infinity(), sum = 0.0f;
    float4 total = make_float4(0.0f, 0.0f, 0.0f, 0.0f);

    // Adds n parts, at most eight, in order; tops(i) gives maximum and sum of the i-th, columns(i) its columns.
    template <class Tops, class Columns> __device__ void add(u32 n, Tops tops, Columns columns) {
        float2 top[8];
        f32 before = max;
#pragma unroll
        for (u32 i = 0; i < 8; i++) top[i] = i < n ? tops(i) : make_float2(-infinity(), 0.0f);
#pragma unroll
        for (u32 i = 0; i < 8; i++) max = fmaxf(max, top[i].x);
        f32 kept = share_of(before, max);
        sum *= kept, total.x *= kept, total.y *= kept, total.z *= kept, total.w *= kept;
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            f32 share = share_of(top[i].x, max);
            float4 part = i < n ? columns(i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            sum += top[i].y * share;
            total.x += part.x * share, total.y += part.y * share, total.z += part.z * share, total.w += part.w * share;
        }
    }

    // Scores with +inf, or -inf alone, have no softmax.
    __device__ void columns(f32 (&v)[4]) const {
        f32 inverse = fabsf(max) < infinity() ? __fdividef(1.0f, sum) : not_a_number();
        v[0] = total.x * inverse, v[1] = total.y * inverse, v[2] = total.z * inverse, v[3] = total.w * inverse;
    }
};
// The keys of a row divided among blocks, and how their parts meet. Needs common.cuh, overlap.cuh, merge.cuh, cluster.cuh and
// fours.cuh.

// A block's share of the keys that a row at `position` sees.
struct Keys {
    u32 first, end, blocks;  // blocks: that have a share

    __device__ Keys(u32 position, u64 capacity, u64 window, u32 split, u32 splits) {
        u32 last = min((u64)position, capacity - 1) + 1, begin = last > window ? last - (u32)window : 0, count = last - begin;
        u32 each = min((u64)((count - 1) / splits / 16 + 1) * 16, (u64)count);
        blocks = (count - 1) / each + 1;
        first = begin + min((u64)split * each, (u64)count), end = first + min(each, begin + count - first);
    }
    __device__ bool operator!=(const Keys& other) const { return first != other.first || end != other.end; }
};

// Brings the first rows of these keys near.
__device__ inline void prefetch(const weight* from, u64 stride, const Keys& keys, u32 head_dim) {
    const u32 line = 128 / sizeof(weight);
    u32 lines = (head_dim + line - 1) / line, count = min(keys.end - keys.first, 256u) * lines;
    for (u32 i = threadIdx.x; i < count; i += 256)
        asm volatile("prefetch.global.L2 [%0];" :: "l"(from + (keys.first + i / lines) * stride + i % lines * line));
}

// A tile's heads, each of up to 4 * LANES columns, by blocks of 256 threads.
template <u32 LANES> struct Tile {
    static const u32 HEADS = 256 / LANES, STEP = 4 * LANES + 4;
    u32 heads, head_dim, h, c;  // h, c: what the thread puts together, four columns of a head

    __device__ Tile(u32 heads, u32 head_dim)
        : heads(heads), head_dim(head_dim), h(threadIdx.x / LANES), c(threadIdx.x % LANES * 4) {}
    __device__ bool inside() const { return h < heads && c < head_dim; }

    __device__ void finish(const Four& four, scalar* to) const {
        f32 v[4];
        four.columns(v);
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            if (c + i < head_dim) store(to + h * head_dim + c + i, v[i]);
    }

    // Puts the parts of all blocks that have keys together, in their order; `partials` are the tile's. Called by all
    // threads of these blocks, each with its own part.
    __device__ void meet(const Four& own, const Keys& keys, u32 split, u32 cluster, f32* partials, u32* counter, scalar* to) {
        __shared__ float4 inbox[7 * 64];  // of each block of a cluster, the columns that this one finishes
        __shared__ float2 tops[8][HEADS];
        if (keys.blocks == 1) {
            if (inside()) finish(own, to);
        } else if (cluster > 1) {
            // The first 2^n blocks finish: block b every 2^n-th four of columns, from the b-th on.
            u32 n = 31 - __clz(keys.blocks), each = 256 >> n, rank = threadIdx.x & ((1 << n) - 1);
            cluster_wait();  // All blocks have begun.
            if (inside()) give(across(inbox + split * each + (threadIdx.x >> n), rank), own.total);
            if (h < heads && c >> n < 4) give(across(&tops[split][h], rank), make_float2(own.max, own.sum));
            cluster_arrive(), cluster_wait();
            u32 four = threadIdx.x << n | split;
            h = four / LANES, c = four % LANES * 4;
            if (split >> n || threadIdx.x >= each || !inside()) return;
            Four all;
            all.add(keys.blocks, [&](u32 b) { return tops[b][h]; }, [&](u32 b) { return inbox[b * each + threadIdx.x]; });
            finish(all, to);
        } else {
            f32 *left = partials + h * STEP, *mine = left + split * HEADS * STEP;
            if (inside()) *(float4*)(mine + 4 + c) = own.total;
            if (inside() && c == 0) *(float2*)mine = make_float2(own.max, own.sum);
            if (!last_of(counter, keys.blocks) || !inside()) return;
            Four all;
            for (u32 first = 0; first < keys.blocks; first += 8) {
                const f32* from = left + first * HEADS * STEP;
                all.add(min(keys.blocks - first, 8u), [=](u32 i) { return __ldcg((const float2*)(from + i * HEADS * STEP)); },
                        [=](u32 i) { return __ldcg((const float4*)(from + i * HEADS * STEP + 4 + c)); });
            }
            finish(all, to);
        }
    }
};
// Attention of up to four query heads to keys they share, by groups of lanes that hold a key at a time, eight columns a
// lane; scores times log2(e), so that weights are powers of two. Needs common.cuh, overlap.cuh and splits.cuh.

const u32 HEADS = 4;

// Where a thread stands: its group and, in it, its columns and the head whose scores it comes to hold.
struct Lanes {
    u32 count, groups, group, column, left, share, head;

    __device__ Lanes(u32 head_dim) {
        count = max(lanes_for((head_dim + 7) / 8, 32), HEADS), groups = blockDim.x / count;
        u32 lane = threadIdx.x % count;
        group = threadIdx.x / count, column = lane * 8, left = head_dim - min(column, head_dim);
        share = count / HEADS, head = lane / share;
    }

    // Sums of the lanes' values for each head: every lane gets that of its head.
    __device__ f32 sum(const f32 (&of)[HEADS]) const {
        bool upper = head / 2, odd = head % 2;
        f32 a = (upper ? of[2] : of[0]) + __shfl_xor_sync(0xffffffffu, upper ? of[0] : of[2], 2 * share);
        f32 b = (upper ? of[3] : of[1]) + __shfl_xor_sync(0xffffffffu, upper ? of[1] : of[3], 2 * share);
        f32 own = (odd ? b : a) + __shfl_xor_sync(0xffffffffu, odd ? a : b, share);
        return lanes_fold(own, share, [](f32 a, f32 b) { return a + b; });
    }

    // What the lanes of head h hold.
    __device__ f32 of(f32 v, u32 h) const { return __shfl_sync(0xffffffffu, v, h * share, count); }
};

__device__ inline Eight<f32> once(const f32* p) {
    uint4 low = once16(p), high = once16(p + 4);
    return Eight<f32>{*(const float4*)&low, *(const float4*)&high};
}
template <class E> __device__ inline Eight<E> once(const E* p) { return {once16(p)}; }

// Eight elements of a key or a value on their way.
template <bool WIDE> struct Piece {
    Eight<weight> raw;

    __device__ void load(const weight* p, u32 left) {
        raw = {};
        if (left > 0) raw = once(p);
    }
    __device__ void get(f32 (&out)[8]) const { unpack(raw, out); }
};
template <> struct Piece<false> {
    f32 values[8];

    __device__ void load(const weight* p, u32 left) { load8(p, left, false, values); }
    __device__ void get(f32 (&out)[8]) const {
#pragma unroll
        for (u32 e = 0; e < 8; e++) out[e] = values[e];
    }
};

// What the groups of a block found: of each the maximum and the sum of weights relative to it, and their sums of values.
struct Found {
    float2 tops[64][HEADS];
    float4 outs[HEADS][512];

    // A thread's four columns of a head, of all groups.
    __device__ Four four(const Lanes& lanes, u32 h, u32 c) const {
        Four all;
        for (u32 first = 0; first < lanes.groups; first += 8)
            all.add(min(lanes.groups - first, 8u), [=](u32 g) { return tops[first + g][h]; },
                    [=](u32 g) { return outs[h][(first + g) * lanes.count * 2 + c / 4]; });
        return all;
    }
};

// Rows of the cache, of one head.
struct Span {
    const weight* k;
    u64 k_stride;
    const weight* v;
    u64 v_stride;
};

// KEYS keys a group at a time: those that find() says; `keys` is a guess, which is loaded while that is found out. The next
// kernel begins when its loads no longer delay these. Called by all threads of the block.
template <bool WIDE, u32 KEYS, class Find> __device__ inline void
attend(Keys& keys, Find find, const Span& span, const Lanes& lanes, const f32 (&q)[HEADS][8], f32 log2_scale, Found& found) {
    Piece<WIDE> key[KEYS], value[KEYS];
    f32 max = -infinity(), sum = 0.0f, out[HEADS][8] = {};
    const u32 step = KEYS * lanes.groups;
    auto load = [&](Piece<WIDE> (&pieces)[KEYS], const weight* p, u64 stride, u64 base) {
#pragma unroll
        for (u32 n = 0; n < KEYS; n++) {
            u64 j = base + n * lanes.groups;
            pieces[n].load(p + j * stride + lanes.column, j < keys.end ? lanes.left : 0);
        }
    };
    auto load_both = [&](u64 j) { load(key, span.k, span.k_stride, j), load(value, span.v, span.v_stride, j); };
    if (keys.end - keys.first <= step) release_next();
    load_both((u64)keys.first + lanes.group);
    Keys sure = find();
    if (sure != keys) keys = sure, load_both((u64)keys.first + lanes.group);
    keys = sure;
    u64 j = (u64)keys.first + lanes.group;
    // All groups go round equally often, because lanes of a warp meet in shuffles.
    for (u64 base = keys.first; base < keys.end; base += step, j += step) {
        f32 scores[KEYS], top = max;
        if (base + step >= keys.end) release_next();
#pragma unroll
        for (u32 n = 0; n < KEYS; n++) {
            f32 of_key[8], dots[HEADS] = {};
            key[n].get(of_key);
#pragma unroll
            for (u32 h = 0; h < HEADS; h++)
#pragma unroll
                for (u32 e = 0; e < 8; e++) dots[h] += q[h][e] * of_key[e];
            scores[n] = lanes.sum(dots);
            if (j + n * lanes.groups < keys.end) top = fmaxf(top, scores[n] * log2_scale);
        }
        load(key, span.k, span.k_stride, j + step);
        f32 before = share_of(max, top);
        max = top, sum *= before;
#pragma unroll
        for (u32 n = 0; n < KEYS; n++) {
            scores[n] = j + n * lanes.groups < keys.end ? share_of(scores[n], log2_scale, max) : 0.0f;
            sum += scores[n];
        }
#pragma unroll
        for (u32 h = 0; h < HEADS; h++) {
            f32 scaled = lanes.of(before, h);
#pragma unroll
            for (u32 e = 0; e < 8; e++) out[h][e] *= scaled;
        }
#pragma unroll
        for (u32 n = 0; n < KEYS; n++) {
            f32 of_value[8];
            value[n].get(of_value);
#pragma unroll
            for (u32 h = 0; h < HEADS; h++) {
                f32 factor = lanes.of(scores[n], h);
#pragma unroll
                for (u32 e = 0; e < 8; e++) out[h][e] += factor * of_value[e];
            }
        }
        load(value, span.v, span.v_stride, j + step);
    }
    if (threadIdx.x % lanes.share == 0) found.tops[lanes.group][lanes.head] = make_float2(max, sum);
#pragma unroll
    for (u32 h = 0; h < HEADS; h++)
        for (u32 half = 0; half < 2; half++)
            found.outs[h][threadIdx.x * 2 + half] =
                make_float4(out[h][half * 4], out[h][half * 4 + 1], out[h][half * 4 + 2], out[h][half * 4 + 3]);
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(256)
attention(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride, const weight* v,
          u64 v_stride, const u32* positions, u64 rows, u64 capacity, u64 window, u32 n_kv_heads, u32 group,
          u32 head_dim, f32 scale, f32* partials, u32* counters, u32 splits, u32 cluster) {
    __shared__ Found found;
    u32 parts = (group + HEADS - 1) / HEADS, of_row = n_kv_heads * parts, split = blockIdx.x % splits;
    Lanes lanes(head_dim);
    bool even = head_dim % 8 == 0, wide_q = even && aligned(q, q_stride, rows);
    bool wide = even && aligned(k, k_stride, capacity) && aligned(v, v_stride, capacity);
    if (cluster > 1) cluster_begin();
    u64 index = blockIdx.x / splits, tiles = rows * of_row, row, of;
    divide(index, of_row, row, of);
    // A guess, until the kernel before has ended.
    Keys keys(fresh(positions + row), capacity, window, split, splits);
    if (cluster > 1) {
        u64 at = of / parts * head_dim;
        prefetch(k + at, k_stride, keys, head_dim), prefetch(v + at, v_stride, keys, head_dim);
    }
    await_previous();
    while (true) {
        u32 kv_head = (u32)of / parts, head = (u32)of % parts * HEADS;
        Tile<64> tile(min(group - head, HEADS), head_dim);
        u64 columns = (u64)(kv_head * group + head) * head_dim;
        f32 query[HEADS][8];
#pragma unroll
        for (u32 h = 0; h < HEADS; h++)
            load8(q + row * q_stride + columns + h * head_dim + lanes.column, h < tile.heads ? lanes.left : 0, wide_q, query[h]);
        Span span = {k + (u64)kv_head * head_dim, k_stride, v + (u64)kv_head * head_dim, v_stride};
        auto find = [=] { return Keys(fresh(positions + row), capacity, window, split, splits); };
        // The block may still be reading what it found for the tile before.
        __syncthreads();
        if (wide) attend<true, 4>(keys, find, span, lanes, query, scale * LOG2_E, found);
        else attend<false, 1>(keys, find, span, lanes, query, scale * LOG2_E, found);
        if (split < keys.blocks) {
            Four own;
            if (tile.inside()) own = found.four(lanes, tile.h, tile.c);
            tile.meet(own, keys, split, cluster, partials + index * splits * HEADS * Tile<64>::STEP, counters + index,
                      out + row * out_stride + columns);
        }
        index += gridDim.x / splits;
        if (index >= tiles) return;
        divide(index, of_row, row, of);
        keys = Keys(fresh(positions + row), capacity, window, split, splits);
    }
}
