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

// Hopper's copy engine: one thread has it bring boxes of a matrix to shared memory.

// Hopper's products with short right operands, the left one perhaps in registers, and meetings of some of a block's warps.

// Hopper's products of tiles in shared memory by groups of four warps, and clusters of blocks.

// What products on tensor cores share: copies into shared memory, and the way of sums to the output.

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

// The name of the element type, as instructions spell it.
#define SPELLED(type) #type
#define SPELL(type) SPELLED(type)

extern __shared__ __align__(1024) unsigned char dynamic[];

__device__ inline u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Copies 16 bytes without waiting, or clears them.
__device__ inline void copy16(u32 to, const void* from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
}
__device__ inline void copies_end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <u32 PENDING> __device__ inline void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Where 16-byte piece `piece` of `row` lies when a row has PIECES pieces: eight rows at one piece meet no bank twice.
template <u32 PIECES> __device__ inline u32 swizzled(u32 row, u32 piece) {
    return row * PIECES * 16 + (piece ^ row * PIECES / 8 % PIECES) * 16;
}

// Copies `ROWS` rows of `DEPTH` columns: element (r, c) of `from`, 0 from `rows` rows or `columns` columns on.
template <u32 ROWS, u32 DEPTH, u32 THREADS, class E>
__device__ inline void copy_rows(u32 to, const E* from, u64 stride, u64 rows, u64 columns) {
    const u32 PIECES = DEPTH / 8, AT_ONCE = THREADS / PIECES;
    u32 piece = threadIdx.x % PIECES, row = threadIdx.x / PIECES;
    const E* p = from + row * stride + piece * 8;
    u32 seen = piece * 8 < columns ? (u32)min(rows, (u64)ROWS) : 0;
#pragma unroll
    for (u32 i = 0; i < ROWS / AT_ONCE; i++)
        copy16(to + swizzled<PIECES>(row + i * AT_ONCE, piece), p + i * AT_ONCE * stride, row + i * AT_ONCE < seen);
}

// The same of DEPTH rows of COLS columns, as panels of 64 columns.
template <u32 COLS, u32 DEPTH, u32 THREADS, class E>
__device__ inline void copy_panels(u32 to, const E* from, u64 stride, u64 rows, u64 columns) {
#pragma unroll
    for (u32 panel = 0; panel < COLS / 64; panel++) {
        u64 left = columns > panel * 64 ? columns - panel * 64 : 0;
        copy_rows<DEPTH, 64, THREADS>(to + panel * DEPTH * 128, from + panel * 64, stride, rows, left);
    }
}

// x: [m, k] and w: [n, k], or [k, n] if PLAIN.
struct Operands {
    const scalar* x;
    const weight* w;
    u64 x_stride, w_stride, m, n, k;
};

// Copies step `step` of the tile at (i, j): the rows of x, then those of w, or panels of its columns.
template <u32 PLAIN, u32 ROWS, u32 COLS, u32 DEPTH, u32 THREADS>
__device__ inline void copy_step(u32 to, const Operands& of, u64 i, u64 j, u64 step) {
    const u32 RIGHT = ROWS * DEPTH * 2;
    u64 c = step * DEPTH;
    copy_rows<ROWS, DEPTH, THREADS>(to, of.x + i * of.x_stride + c, of.x_stride, of.m - i, of.k - c);
    const weight* w = of.w + (PLAIN ? c * of.w_stride + j : j * of.w_stride + c);
    if (PLAIN) copy_panels<COLS, DEPTH, THREADS>(to + RIGHT, w, of.w_stride, of.k - c, of.n - j);
    else copy_rows<COLS, DEPTH, THREADS>(to + RIGHT, w, of.w_stride, of.n - j, of.k - c);
}

// Puts 16 rows by 8 * WIDE columns of a warp's sums in rows of PITCH. mma.sync and wgmma leave them alike: sums[f][e] is row
// lane / 4 + e / 2 * 8, column 8 * f + lane % 4 * 2 + e % 2.
template <u32 PITCH, u32 WIDE> __device__ inline void stage(f32* to, const f32 (&sums)[WIDE][4]) {
    u32 lane = threadIdx.x % 32;
    to += lane / 4 * PITCH + lane % 4 * 2;
#pragma unroll
    for (u32 f = 0; f < WIDE; f++) {
        *(float2*)(to + f * 8) = make_float2(sums[f][0], sums[f][1]);
        *(float2*)(to + 8 * PITCH + f * 8) = make_float2(sums[f][2], sums[f][3]);
    }
}

// The operand that a product goes to: [m, n] of f32 if `wide`, else of the activations' type.
struct Output {
    scalar* to;
    u64 stride, m, n;
    bool accumulate, wide;
};

template <u32 COLS, class E, class F>
__device__ inline void write_as(E* to, const Output& out, u64 i, u64 j, u32 rows, u32 part, u32 parts, F add) {
    u32 items = min((u64)rows, out.m - min(i, out.m)) * (COLS / 8);
    u64 columns = out.n - j;
    bool even = aligned(to, out.stride, out.m);
    to += i * out.stride + j;
    for (u32 item = items * part / parts + threadIdx.x; item < items * (part + 1) / parts; item += blockDim.x) {
        u32 row = item / (COLS / 8), column = item % (COLS / 8) * 8;
        if (column >= columns) continue;
        E* at = to + row * out.stride + column;
        f32 sum[8] = {};
        if (out.accumulate) load8(at, columns - column, even, sum);
        add(sum, row, column);
        store8(at, columns - column, even, sum);
    }
}

// Writes `rows` rows of COLS columns at (i, j), as far as `out` has them; of those, part `part` of `parts`.
// add(sum, row, column) adds eight sums to `sum`, those from (row, column) of the tile on.
template <u32 COLS, class F>
__device__ inline void write_rows(const Output& out, u64 i, u64 j, u32 rows, u32 part, u32 parts, F add) {
    if (out.wide) write_as<COLS>((f32*)out.to, out, i, j, rows, part, parts, add);
    else write_as<COLS>(out.to, out, i, j, rows, part, parts, add);
}

// What an instruction needs to know of an operand in shared memory: where it starts, and how far apart are panels of 64
// columns and groups of eight rows. Bit 62: rows of 128 bytes, swizzled. Bits of an address from 18 on name a block of the
// cluster; the operand is always this block's.
__device__ inline u64 descriptor(u32 start, u32 panels, u32 eights) {
    return (u64)(start >> 4 & 0x3fff) | (u64)(panels >> 4) << 16 | (u64)(eights >> 4) << 32 | 1ull << 62;
}

// sums += a * b, of 64 x 16 and 16 x 256, by four warps; TURNED if b's rows are rows of 256, not columns.
template <u32 TURNED> __device__ inline void multiply(f32 (&s)[4][8][4], u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32." SPELL(SCALAR) "." SPELL(SCALAR) " {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
                 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
                 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
                 "%128, %129, 1, 1, 1, 0, %130;"
                 : "+f"(s[0][0][0]), "+f"(s[0][0][1]), "+f"(s[0][0][2]), "+f"(s[0][0][3]),
                   "+f"(s[0][1][0]), "+f"(s[0][1][1]), "+f"(s[0][1][2]), "+f"(s[0][1][3]),
                   "+f"(s[0][2][0]), "+f"(s[0][2][1]), "+f"(s[0][2][2]), "+f"(s[0][2][3]),
                   "+f"(s[0][3][0]), "+f"(s[0][3][1]), "+f"(s[0][3][2]), "+f"(s[0][3][3]),
                   "+f"(s[0][4][0]), "+f"(s[0][4][1]), "+f"(s[0][4][2]), "+f"(s[0][4][3]),
                   "+f"(s[0][5][0]), "+f"(s[0][5][1]), "+f"(s[0][5][2]), "+f"(s[0][5][3]),
                   "+f"(s[0][6][0]), "+f"(s[0][6][1]), "+f"(s[0][6][2]), "+f"(s[0][6][3]),
                   "+f"(s[0][7][0]), "+f"(s[0][7][1]), "+f"(s[0][7][2]), "+f"(s[0][7][3]),
                   "+f"(s[1][0][0]), "+f"(s[1][0][1]), "+f"(s[1][0][2]), "+f"(s[1][0][3]),
                   "+f"(s[1][1][0]), "+f"(s[1][1][1]), "+f"(s[1][1][2]), "+f"(s[1][1][3]),
                   "+f"(s[1][2][0]), "+f"(s[1][2][1]), "+f"(s[1][2][2]), "+f"(s[1][2][3]),
                   "+f"(s[1][3][0]), "+f"(s[1][3][1]), "+f"(s[1][3][2]), "+f"(s[1][3][3]),
                   "+f"(s[1][4][0]), "+f"(s[1][4][1]), "+f"(s[1][4][2]), "+f"(s[1][4][3]),
                   "+f"(s[1][5][0]), "+f"(s[1][5][1]), "+f"(s[1][5][2]), "+f"(s[1][5][3]),
                   "+f"(s[1][6][0]), "+f"(s[1][6][1]), "+f"(s[1][6][2]), "+f"(s[1][6][3]),
                   "+f"(s[1][7][0]), "+f"(s[1][7][1]), "+f"(s[1][7][2]), "+f"(s[1][7][3]),
                   "+f"(s[2][0][0]), "+f"(s[2][0][1]), "+f"(s[2][0][2]), "+f"(s[2][0][3]),
                   "+f"(s[2][1][0]), "+f"(s[2][1][1]), "+f"(s[2][1][2]), "+f"(s[2][1][3]),
                   "+f"(s[2][2][0]), "+f"(s[2][2][1]), "+f"(s[2][2][2]), "+f"(s[2][2][3]),
                   "+f"(s[2][3][0]), "+f"(s[2][3][1]), "+f"(s[2][3][2]), "+f"(s[2][3][3]),
                   "+f"(s[2][4][0]), "+f"(s[2][4][1]), "+f"(s[2][4][2]), "+f"(s[2][4][3]),
                   "+f"(s[2][5][0]), "+f"(s[2][5][1]), "+f"(s[2][5][2]), "+f"(s[2][5][3]),
                   "+f"(s[2][6][0]), "+f"(s[2][6][1]), "+f"(s[2][6][2]), "+f"(s[2][6][3]),
                   "+f"(s[2][7][0]), "+f"(s[2][7][1]), "+f"(s[2][7][2]), "+f"(s[2][7][3]),
                   "+f"(s[3][0][0]), "+f"(s[3][0][1]), "+f"(s[3][0][2]), "+f"(s[3][0][3]),
                   "+f"(s[3][1][0]), "+f"(s[3][1][1]), "+f"(s[3][1][2]), "+f"(s[3][1][3]),
                   "+f"(s[3][2][0]), "+f"(s[3][2][1]), "+f"(s[3][2][2]), "+f"(s[3][2][3]),
                   "+f"(s[3][3][0]), "+f"(s[3][3][1]), "+f"(s[3][3][2]), "+f"(s[3][3][3]),
                   "+f"(s[3][4][0]), "+f"(s[3][4][1]), "+f"(s[3][4][2]), "+f"(s[3][4][3]),
                   "+f"(s[3][5][0]), "+f"(s[3][5][1]), "+f"(s[3][5][2]), "+f"(s[3][5][3]),
                   "+f"(s[3][6][0]), "+f"(s[3][6][1]), "+f"(s[3][6][2]), "+f"(s[3][6][3]),
                   "+f"(s[3][7][0]), "+f"(s[3][7][1]), "+f"(s[3][7][2]), "+f"(s[3][7][3])
                 : "l"(a), "l"(b), "n"(TURNED));
}

__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_end_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <u32 PENDING> __device__ inline void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
__device__ inline void show_copies_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// This block's number in its cluster, and how many blocks that has.
__device__ inline u32 cluster_rank() {
    u32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
__device__ inline u32 cluster_blocks() {
    u32 blocks;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
    return blocks;
}
__device__ inline void cluster_meets() {
    asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
}
// sum += eight numbers at this address in the shared memory of a block of the cluster.
__device__ inline void add_remote(f32 (&sum)[8], u32 address, u32 block) {
    asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(block));
#pragma unroll
    for (u32 e = 0; e < 8; e += 4) {
        float4 v;
        asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                     : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                     : "r"(address + 4 * e)
                     : "memory");
        sum[e] += v.x, sum[e + 1] += v.y, sum[e + 2] += v.z, sum[e + 3] += v.w;
    }
}

#define FOUR(s) "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
#define SIXTEEN(s, i) FOUR(s[i]), FOUR(s[i + 1]), FOUR(s[i + 2]), FOUR(s[i + 3])
#define TYPES ".f32." SPELL(SCALAR) "." SPELL(SCALAR) " "
#define SUMS32 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SUMS64 SUMS32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// s = a * b, or s += a * b if MORE, of 64 x 16 and 16 x 64 or 128 in shared memory, by four warps.
template <u32 MORE> __device__ inline void multiply_short(f32 (&s)[8][4], u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16" TYPES SUMS32 "}, %32, %33, %34, 1, 1, 0, 0;"
                 : SIXTEEN(s, 0), SIXTEEN(s, 4) : "l"(a), "l"(b), "n"(MORE));
}
template <u32 MORE> __device__ inline void multiply_short(f32 (&s)[16][4], u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16" TYPES SUMS64 "}, %64, %65, %66, 1, 1, 0, 0;"
                 : SIXTEEN(s, 0), SIXTEEN(s, 4), SIXTEEN(s, 8), SIXTEEN(s, 12) : "l"(a), "l"(b), "n"(MORE));
}

// s += a * b: a's fragments in registers as mma.sync wants them, rows of b in shared memory.
__device__ inline void multiply_held(f32 (&s)[8][4], const u32 (&a)[4], u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16" TYPES SUMS32 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
                 : SIXTEEN(s, 0), SIXTEEN(s, 4) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void multiply_held(f32 (&s)[16][4], const u32 (&a)[4], u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16" TYPES SUMS64 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                 : SIXTEEN(s, 0), SIXTEEN(s, 4), SIXTEEN(s, 8), SIXTEEN(s, 12)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// s = a * b: 64 rows of a's panels of ROWS rows, 8 * N columns that are rows of b's panels.
template <u32 DIM, u32 ROWS, u32 N> __device__ inline void multiply_panels(f32 (&s)[N][4], u32 a, u32 b) {
#pragma unroll
    for (u32 at = 0; at < DIM / 16; at++) {
        u64 left = descriptor(a + at / 4 * ROWS * 128 + at % 4 * 32, 16, 1024);
        u64 right = descriptor(b + at / 4 * N * 8 * 128 + at % 4 * 32, 16, 1024);
        if (at == 0) multiply_short<0>(s, left, right);
        else multiply_short<1>(s, left, right);
    }
    products_end_group();
}

// s += a * b: a in registers, b's panels of 16 * N rows.
template <u32 PARTS, u32 WIDE, u32 N>
__device__ inline void multiply_weights(f32 (&s)[PARTS][WIDE][4], const u32 (&a)[N][4], u32 b) {
#pragma unroll
    for (u32 at = 0; at < N; at++)
#pragma unroll
        for (u32 part = 0; part < PARTS; part++)
            multiply_held(s[part], a[at], descriptor(b + part * 2 * N * 2048 + at * 2048, N * 2048, 1024));
    products_end_group();
}

// Sums of products that have been waited for: they were written behind the compiler's back until here.
template <u32 N> __device__ inline void take(f32 (&s)[N][4]) {
#pragma unroll
    for (u32 i = 0; i < 4 * N; i++) asm volatile("" : "+f"(s[i / 4][i % 4])::"memory");
}
template <u32 PARTS, u32 N> __device__ inline void take_all(f32 (&s)[PARTS][N][4]) {
#pragma unroll
    for (u32 part = 0; part < PARTS; part++) take(s[part]);
}

// A barrier in shared memory: its phase 0, 1, 0, .. ends when `count` threads have arrived in it.
__device__ inline void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ inline void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void barrier_wait(u32 barrier, u32 phase) {
    u32 ended;
    do
        asm volatile("{ .reg .pred ended; mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2; selp.u32 %0, 1, 0, ended; }"
                     : "=r"(ended) : "r"(barrier), "r"(phase) : "memory");
    while (!ended);
}

// Slots of SIZE bytes in shared memory, which some warps fill and others leave; item i goes to slot i % SLOTS. Each has a
// barrier for either, from `full` on: first those that end when it is full.
template <u32 SLOTS, u32 SIZE> struct Ring {
    u32 slots, full;

    __device__ u32 slot(u32 item) const { return slots + item % SLOTS * SIZE; }
    __device__ void wait_full(u32 item) const { barrier_wait(full + item % SLOTS * 8, item / SLOTS & 1); }
    __device__ void wait_empty(u32 item) const {
        if (item >= SLOTS) barrier_wait(full + (SLOTS + item % SLOTS) * 8, item / SLOTS - 1 & 1);
    }
    // By every thread that copied, once its copies are there.
    __device__ void fill(u32 item) const {
        show_copies_to_products();
        barrier_arrive(full + item % SLOTS * 8);
    }
    // By every warp that read, once.
    __device__ void leave(u32 item) const {
        if (threadIdx.x % 32 == 0) barrier_arrive(full + (SLOTS + item % SLOTS) * 8);
    }
};

// Barrier `id` of the block, for 256 threads: those that arrive only, and those that wait for all.
__device__ inline void meeting_announce(u32 id) { asm volatile("bar.arrive %0, 256;" ::"r"(id) : "memory"); }
__device__ inline void meeting_wait(u32 id) { asm volatile("bar.sync %0, 256;" ::"r"(id) : "memory"); }

// Gives up registers of each thread of four warps, or takes them.
template <u32 N> __device__ inline void registers_shrink() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <u32 N> __device__ inline void registers_grow() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

// What the engine knows of a matrix; made by the driver.
struct __align__(64) TensorMap { u64 words[16]; };

// One arrival, and bytes that the phase waits for.
__device__ inline void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// One arrival at a barrier at this address in a block of the cluster.
__device__ inline void barrier_arrive_at(u32 barrier, u32 block) {
    asm volatile("mapa.shared::cluster.u32 %0, %0, %1; mbarrier.arrive.shared::cluster.b64 _, [%0];"
                 : "+r"(barrier) : "r"(block) : "memory");
}
// Shows barriers that have been made to the engine and to other blocks of the cluster.
__device__ inline void barriers_show() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Sends the box at (row, column) to shared memory, 0 beyond the matrix, and counts its bytes off the barrier.
__device__ inline void fetch(u32 to, const TensorMap& map, u32 column, u32 row, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                 ::"r"(to), "l"(&map), "r"(column), "r"(row), "r"(barrier) : "memory");
}
// The same to this address in both blocks of a cluster, and off the barrier of each.
__device__ inline void fetch_for_both(u32 to, const TensorMap& map, u32 column, u32 row, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%2, %3}], [%4], %5;"
                 ::"r"(to), "l"(&map), "r"(column), "r"(row), "r"(barrier), "h"((u16)3) : "memory");
}
// The same to one block, of a matrix whose rows are heads.
__device__ inline void fetch(u32 to, const TensorMap& map, u32 column, u32 head, u32 row, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to), "l"(&map), "r"(column), "r"(head), "r"(row), "r"(barrier) : "memory");
}
// From scores to weights to the output, for 16 queries of a warp at a time.

// Attention of many rows: what the kernels for tensor cores share. A query is one row's head; those that share keys are
// numbered row by row, so that a block's have nearly the same keys.


// The thread's index, read anew: so that no register holds it, and what follows from it, all along.
__device__ inline u32 thread_anew() {
    u32 index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
}

// The operands, and the head of keys and values that is attended to, with as many queries.
struct Prompt {
    scalar* out;
    const scalar* q;
    const weight *k, *v;
    const u32* positions;
    u64 out_stride, q_stride, k_stride, v_stride, capacity, window;
    u32 rows, group, head_dim, kv_head;
    f32 scale;

    // Computed anew each time: registers are for sums.
    __device__ u32 queries() const {
        u32 n;
        asm volatile("mul.lo.u32 %0, %1, %2;" : "=r"(n) : "r"(rows), "r"(group));
        return n;
    }
    __device__ u64 q_at(u32 query) const { return query / group * q_stride + (kv_head * group + query % group) * head_dim; }
    __device__ u64 out_at(u32 query) const { return query / group * out_stride + (kv_head * group + query % group) * head_dim; }
};

// Keys begin .. end.
struct Seen {
    u32 begin, end;
};

__device__ inline Seen seen_by(const Prompt& of, u32 row) {
    u64 end = min((u64)of.positions[row], of.capacity - 1) + 1;
    return {(u32)(end > of.window ? end - of.window : 0), (u32)end};
}

// Keys that any of `n` queries sees, and keys that all of them see.
struct Bounds {
    Seen any, all;
};

__device__ inline Bounds bounds(const Prompt& of, u32 first, u32 n) {
    Bounds b = {{0xffffffffu, 0}, {0, 0xffffffffu}};
    u32 last = min(of.queries() - first, n) - 1 + first;
    for (u32 row = first / of.group + threadIdx.x % 32; row <= last / of.group; row += 32) {
        Seen s = seen_by(of, row);
        b.any.begin = min(b.any.begin, s.begin), b.all.begin = max(b.all.begin, s.begin);
        b.any.end = max(b.any.end, s.end), b.all.end = min(b.all.end, s.end);
    }
    const u32 LANES = 0xffffffffu;
    return {{__reduce_min_sync(LANES, b.any.begin), __reduce_max_sync(LANES, b.any.end)},
            {__reduce_max_sync(LANES, b.all.begin), __reduce_min_sync(LANES, b.all.end)}};
}

// f(first query, turn) for each tile of ROWS queries of this block. Tiles with most keys come first, and turns go forth and
// back, so that all blocks get about as many keys.
template <u32 ROWS, class F> __device__ inline void for_each_tile(Prompt& of, u32 n_kv_heads, F f) {
    u32 tiles = (of.queries() + ROWS - 1) / ROWS * n_kv_heads;
    for (u32 turn = 0;; turn++) {
        u32 tile = turn * gridDim.x + (turn % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
        if (tile >= tiles) return;
        of.kv_head = tile % n_kv_heads;
        f((tiles - 1 - tile) / n_kv_heads * ROWS, turn);
    }
}

// Copies ROWS queries as panels of 64 columns, with 0 beyond the last column; repeats the last query.
template <u32 DIM, u32 ROWS, u32 THREADS> __device__ inline void copy_queries(u32 to, const Prompt& of, u32 first) {
    u32 piece = threadIdx.x % 8;
    for (u32 row = threadIdx.x / 8; row < ROWS; row += THREADS / 8) {
        u32 query = min(first + row, of.queries() - 1);
        const scalar* from = of.q + of.q_at(query) + piece * 8;
#pragma unroll
        for (u32 panel = 0; panel < DIM / 64; panel++)
            copy16(to + panel * ROWS * 128 + swizzled<8>(row, piece), from + panel * 64, panel * 64 + piece * 8 < of.head_dim);
    }
}

// exp(x - max) that counts x = max = -inf as 1, which a larger maximum scales to 0 later.
__device__ inline f32 relative(f32 x, f32 max) { return x == max ? 1.0f : expf(x - max); }

// One query, a key at a time: by a warp, for what the fast way gives up.
__device__ inline void attend_slowly(const Prompt& of, u32 query) {
    u32 column = thread_anew() % 32 * 8, left = of.head_dim - min(column, of.head_dim);
    u64 head = (u64)of.kv_head * of.head_dim + column;
    f32 q[8], key[8], value[8], out[8] = {}, max = -infinity(), sum = 0.0f;
    load8(of.q + of.q_at(query) + column, left, true, q);
    Seen seen = seen_by(of, query / of.group);
#pragma unroll 1
    for (u32 j = seen.begin; j < seen.end; j++) {
        load8(of.k + j * of.k_stride + head, left, true, key);
        load8(of.v + j * of.v_stride + head, left, true, value);
        f32 dot = 0.0f;
        for (u32 e = 0; e < 8; e++) dot += q[e] * key[e];
        dot = lanes_fold(dot, 32, [](f32 a, f32 b) { return a + b; }) * of.scale;
        f32 top = fmaxf(max, dot), before = relative(max, top), now = relative(dot, top);
        max = top, sum = sum * before + now;
        for (u32 e = 0; e < 8; e++) out[e] = out[e] * before + now * value[e];
    }
    // Scores with +inf, or -inf alone, have no softmax.
    for (u32 e = 0; e < 8; e++) out[e] = fabsf(max) < infinity() ? out[e] / sum : not_a_number();
    store8(of.out + of.out_at(query) + column, left, true, out);
}

// 2^x
__device__ inline f32 power(f32 x) {
    f32 y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 16 queries of a warp: lane 4 g + t has of queries g and g + 8 the largest score, its part of the sum of weights, and of the
// weighted values, relative to that score, columns 8 f + 2 t and 8 f + 2 t + 1 of each part.
template <u32 PARTS, u32 WIDE> struct State {
    f32 top[2] = {-infinity(), -infinity()}, sum[2] = {}, out[PARTS][WIDE][4] = {};

    // Turns scores into weights, relative to the largest score now, and gives what that takes from those before.
    template <u32 KEYS> __device__ void weigh(f32 (&s)[KEYS / 8][4], f32 (&before)[2], f32 log2_scale) {
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            f32 max = top[h];
#pragma unroll
            for (u32 f = 0; f < KEYS / 8; f++) max = fmaxf(max, fmaxf(s[f][2 * h], s[f][2 * h + 1]));
            max = lanes_fold(max, 4, [](f32 a, f32 b) { return fmaxf(a, b); });
            // The same rounded product in every power that is relative to it.
            f32 base = max == -infinity() ? 0.0f : __fmul_rn(max, log2_scale);
            before[h] = power(__fmul_rn(top[h], log2_scale) - base);
            top[h] = max, sum[h] *= before[h];
#pragma unroll
            for (u32 f = 0; f < KEYS / 8; f++)
#pragma unroll
                for (u32 e = 2 * h; e < 2 * h + 2; e++) {
                    s[f][e] = power(__fmaf_rn(s[f][e], log2_scale, -base));
                    sum[h] += s[f][e];
                }
        }
    }

    __device__ void shrink(const f32 (&before)[2]) {
        if (!__any_sync(0xffffffffu, before[0] != 1.0f || before[1] != 1.0f)) return;
#pragma unroll
        for (u32 p = 0; p < PARTS; p++)
#pragma unroll
            for (u32 f = 0; f < WIDE; f++)
#pragma unroll
                for (u32 e = 0; e < 4; e++) out[p][f][e] *= before[e / 2];
    }

    // Writes the queries from `first` on, except those that it gives as bits. Weights of keys that a query does not see are 0,
    // and 0 times infinity is not: such results must be computed again, and those of scores too large for `weigh`.
    __device__ u32 finish(const Prompt& of, u32 first, u32 lane, f32 log2_scale) {
        u32 g = lane / 4, t = lane % 4, given = 0;
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            f32 inverse = 1.0f / lanes_fold(sum[h], 4, [](f32 a, f32 b) { return a + b; });
            u32 query = first + g + 8 * h;
            bool inside = query < of.queries(), fine = fabsf(top[h] * log2_scale) < 1048576.0f;
#pragma unroll
            for (u32 i = 0; i < PARTS * WIDE; i++) {
                f32 (&o)[4] = out[i / WIDE][i % WIDE];
                o[2 * h] *= inverse, o[2 * h + 1] *= inverse;
                fine = fine && fabsf(o[2 * h]) < infinity() && fabsf(o[2 * h + 1]) < infinity();
            }
            u32 failed = __ballot_sync(0xffffffffu, inside && !fine);
            scalar* to = of.out + of.out_at(query) + 2 * t;
            if (inside && !(failed >> 4 * g & 15))
#pragma unroll
                for (u32 i = 0; i < PARTS * WIDE; i++) {
                    const f32 (&o)[4] = out[i / WIDE][i % WIDE];
                    if (i * 8 < of.head_dim) *(u32*)(to + i * 8) = pair(o[2 * h], o[2 * h + 1], scalar());
                }
            for (u32 i = 0; i < 8; i++) given |= (failed >> 4 * i & 15 ? 1u : 0u) << (8 * h + i);
        }
        return given;
    }
};

// Takes keys that a query does not see out of the scores of 16 queries from `first` on and KEYS keys from j on.
template <u32 KEYS> __device__ inline void mask(f32 (&s)[KEYS / 8][4], const Prompt& of, u32 first, u32 lane, u32 j) {
    u32 g = lane / 4, t = lane % 4;
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
        Seen seen = seen_by(of, min(first + g + 8 * h, of.queries() - 1) / of.group);
        i32 low = (i32)(seen.begin - j), high = (i32)(seen.end - j);
#pragma unroll
        for (u32 f = 0; f < KEYS / 8; f++)
#pragma unroll
            for (u32 e = 0; e < 2; e++) {
                i32 key = 8 * f + 2 * t + e;
                if (key < low || key >= high) s[f][2 * h + e] = -infinity();
            }
    }
}

// Two of `weigh`'s fragments as the left operand of a product of 16 keys.
__device__ inline void narrow(u32 (&to)[4], const f32 (&a)[4], const f32 (&b)[4]) {
    to[0] = pair(a[0], a[1], scalar()), to[1] = pair(a[2], a[3], scalar());
    to[2] = pair(b[0], b[1], scalar()), to[3] = pair(b[2], b[3], scalar());
}

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
