// attention_mma: out[r, h] = softmax(scale * q[r, h] . k[j, g])_j . v[j, g], j in max(0, end - window) .. end,
//                end = min(positions[r], capacity - 1) + 1, g = h / group: for few rows, whose keys are split
//
// shape   q, out: [rows, n_kv_heads * group * head_dim]   k, v: [capacity, n_kv_heads * head_dim]   positions: [rows]
//         partials: 8 * 132 per split of every tile, unused in clusters   counters: one per tile, 0
// launch  grid = rows * n_kv_heads * ceil(group / 8) tiles * splits; block = 256; clusters of `cluster` blocks: all splits, at
//         most 8, or 1, as below compute capability 9.0
// needs   head_dim <= 128, a multiple of 8; q, k and v aligned to 16 bytes in every row; capacity < 2^31; out apart from
//         the rest
// how     a block takes the queries of a tile and a split of the keys, its warps 16 keys at a time: scores on tensor cores,
//         a running maximum, weights as two 16-bit numbers (value and remainder) times values on tensor cores. The
//         blocks of a cluster give each other their parts through shared memory, each puts a share of the columns
//         together, in order; without clusters the block that comes last does. Blocks without keys leave. Keys outside
//         the window have no weight. To overlap, the keys that an earlier position would have seen are prefetched.
// cost    reads the keys and values that a row sees once for up to eight query heads

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
// Products of 16-bit matrices on tensor cores, from compute capability 8.0 on, with operands as they come from memory 16
// bytes at a time. Needs common.cuh.

#if __CUDA_ARCH__ >= 800

// c += a . b for a [16, 16] and b [16, 8]. Lane 4 g + t holds of c rows g and g + 8, columns 2 t and 2 t + 1; of a, in
// this order, row g, row g + 8 (columns 2 t and 2 t + 1), row g, row g + 8 (columns 2 t + 8, + 9); of b column g, rows as a.
__device__ inline void mma(f32 (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1, bf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ inline void mma(f32 (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1, f16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// c += a . b over 32 terms, eight of each lane's: rows g of a (and g + 8) and column g of b, as 16 bytes from term 8 t on.
// The order of the terms is the same in all, so that it does not matter.
template <class E> __device__ inline void mma32(f32 (&c)[4], uint4 a, uint4 a8, uint4 b, E) {
    mma(c, a.x, a8.x, a.y, a8.y, b.x, b.y, E());
    mma(c, a.z, a8.z, a.w, a8.w, b.z, b.w, E());
}

// Element j of two rows, 16 bytes of each, as a word: what b wants of two rows in the same column.
__device__ inline u32 column(uint4 row, uint4 next, u32 j) {
    u32 a[4] = {row.x, row.y, row.z, row.w}, b[4] = {next.x, next.y, next.z, next.w};
    return __byte_perm(a[j / 2], b[j / 2], j % 2 ? 0x7632 : 0x5410);
}

#endif
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
// Attention of up to eight query heads to keys they share, on tensor cores, in parts that can be put together; scores times
// log2(e), so that weights are powers of two. Needs common.cuh, overlap.cuh, mma.cuh and splits.cuh.

#if __CUDA_ARCH__ >= 800

const u32 DIM = 128, HEADS = 8, KEYS = 16, STEP = 8 * KEYS;  // STEP: keys that a block takes at a time

__device__ inline f32 low(u32 pair, bf16) { return __uint_as_float(pair << 16); }
__device__ inline f32 high(u32 pair, bf16) { return __uint_as_float(pair & 0xffff0000u); }
__device__ inline f32 low(u32 pair, f16) { return to_f32(f16{(u16)pair}); }
__device__ inline f32 high(u32 pair, f16) { return to_f32(f16{(u16)(pair >> 16)}); }

// What a warp knows of its keys: lane 4 g + t of head g, the sum of weights over its own keys, 32 columns of the output.
struct State {
    f32 max = -infinity(), sum = 0.0f, out[16][4] = {};

    __device__ void take(const uint4 (&q)[4], const uint4 (&k)[2][4], const uint4 (&v)[2][2][2], u64 first, u64 end,
                         f32 log2_scale) {
        u32 t = threadIdx.x % 4, whole[2], rest[2];
        f32 s[2][4] = {}, top = max;
        const uint4 none = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) mma32(s[n], q[i], none, k[n][i], weight());
#pragma unroll
            for (u32 e = 0; e < 2; e++)
                if (first + n * 8 + 2 * t + e < end) top = fmaxf(top, s[n][e] * log2_scale);
        }
        top = lanes_fold(top, 4, [](f32 a, f32 b) { return fmaxf(a, b); });
        f32 before = share_of(max, top);
        max = top, sum *= before;
        if (__any_sync(0xffffffffu, before != 1.0f))
#pragma unroll
            for (u32 j = 0; j < 16; j++)
#pragma unroll
                for (u32 e = 0; e < 4; e++) out[j][e] *= before;
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
#pragma unroll
            for (u32 e = 0; e < 2; e++) {
                s[n][e] = first + n * 8 + 2 * t + e < end ? share_of(s[n][e], log2_scale, max) : 0.0f;
                sum += s[n][e];
            }
            whole[n] = pair(s[n][0], s[n][1], weight());
            rest[n] = pair(s[n][0] - low(whole[n], weight()), s[n][1] - high(whole[n], weight()), weight());
        }
#pragma unroll
        for (u32 c = 0; c < 2; c++)
#pragma unroll
            for (u32 j = 0; j < 8; j++)
                mma(out[c * 8 + j], whole[0], rest[0], whole[1], rest[1], column(v[0][0][c], v[0][1][c], j),
                    column(v[1][0][c], v[1][1][c], j), weight());
    }
};

__device__ inline uint4 piece(const weight* p, bool inside) { return inside ? once16(p) : make_uint4(0, 0, 0, 0); }

// Leaves what a block's keys give for the heads in shared memory: sums relative to maxima, one set a warp. The keys are those
// that find() says; `keys` is a guess, which is loaded while that is found out. The next kernel begins when its loads no
// longer delay these: at once if the keys are few, which the prefetch before has brought near, else behind the last of them.
template <class Find>
__device__ inline void attend(Keys& keys, Find find, u32 heads, const scalar* q, const weight* k, u64 k_stride,
                              const weight* v, u64 v_stride, u32 head_dim, f32 scale, f32 (*out)[HEADS][DIM + 4],
                              float2 (*peaks)[HEADS]) {
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    uint4 query[4], key[2][4], value[2][2][2];
    u64 end = keys.end;
    auto load_keys = [&](u64 j) {
#pragma unroll
        for (u32 n = 0; n < 2; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                key[n][i] = piece(k + (j + n * 8 + g) * k_stride + i * 32 + t * 8,
                                  j + n * 8 + g < end && i * 32 + t * 8 < head_dim);
    };
    auto load_values = [&](u64 j) {
#pragma unroll
        for (u32 n = 0; n < 2; n++)
#pragma unroll
            for (u32 e = 0; e < 4; e++)
                value[n][e / 2][e % 2] = piece(v + (j + n * 8 + 2 * t + e / 2) * v_stride + e % 2 * 64 + g * 8,
                                               j + n * 8 + 2 * t + e / 2 < end && e % 2 * 64 + g * 8 < head_dim);
    };
    if (keys.end - keys.first <= STEP) release_next();
    u64 j = keys.first + warp * KEYS;
    load_keys(j), load_values(j);
#pragma unroll
    for (u32 i = 0; i < 4; i++)
        query[i] = g < heads && i * 32 + t * 8 < head_dim ? fresh16(q + g * head_dim + i * 32 + t * 8) : make_uint4(0, 0, 0, 0);
    Keys found = find();
    if (found != keys) {
        j = found.first + warp * KEYS, end = found.end;
        load_keys(j), load_values(j);
    }
    keys = found;
    State state;
    for (; j < end; j += STEP) {
        if (j + STEP >= end) release_next();
        state.take(query, key, value, j, end, scale * LOG2_E);
        load_keys(j + STEP), load_values(j + STEP);
    }
    state.sum = lanes_fold(state.sum, 4, [](f32 a, f32 b) { return a + b; });
    if (t == 0) peaks[warp][g] = make_float2(state.max, state.sum);
    if (g < heads)
#pragma unroll
        for (u32 c = 0; c < 2; c++)
#pragma unroll
            for (u32 e = 0; e < 16; e += 4) {
                const f32(*of)[4] = state.out + c * 8 + e % 8;
                u32 half = e / 8;
                *(float4*)&out[warp][g][c * 64 + 16 * t + e] =
                    make_float4(of[0][half] + of[0][half + 2], of[1][half] + of[1][half + 2],
                                of[2][half] + of[2][half + 2], of[3][half] + of[3][half + 2]);
            }
    __syncthreads();
}

#endif

extern "C" __global__ void __launch_bounds__(256)
attention_mma(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride, const weight* v,
              u64 v_stride, const u32* positions, u64 capacity, u64 window, u32 n_kv_heads, u32 group, u32 head_dim,
              f32 scale, f32* partials, u32* counters, u32 splits, u32 cluster) {
    __shared__ __align__(16) f32 parts[8][HEADS][DIM + 4];
    __shared__ float2 peaks[8][HEADS];
    u32 tiles_of_head = (group + HEADS - 1) / HEADS, index = blockIdx.x / splits, split = blockIdx.x % splits;
    u32 row = index / tiles_of_head / n_kv_heads, kv_head = index / tiles_of_head % n_kv_heads;
    u32 head = index % tiles_of_head * HEADS, heads = min(group - head, HEADS);
    k += kv_head * head_dim, v += kv_head * head_dim;
    if (cluster > 1) cluster_begin();
    auto find = [=] { return Keys(fresh(positions + row), capacity, window, split, splits); };
    Keys keys = find();
    if (cluster > 1) prefetch(k, k_stride, keys, head_dim), prefetch(v, v_stride, keys, head_dim);
    await_previous();
    u64 columns = (u64)(kv_head * group + head) * head_dim;
    attend(keys, find, heads, q + row * q_stride + columns, k, k_stride, v, v_stride, head_dim, scale, parts, peaks);
    if (split >= keys.blocks) return;
    Tile<DIM / 4> tile(heads, head_dim);
    Four own;
    if (tile.inside())
        own.add(8, [&](u32 warp) { return peaks[warp][tile.h]; },
                [&](u32 warp) { return *(const float4*)&parts[warp][tile.h][tile.c]; });
    tile.meet(own, keys, split, cluster, partials + (u64)index * splits * HEADS * Tile<DIM / 4>::STEP, counters + index,
              out + row * out_stride + columns);
}
