// swiglu_wgmma: out[i, j] = silu(gate) * up, gate = sum_c x[i, c] * w[j, c], up = sum_c x[i, c] * w[ffn + j, c], for many rows,
//               on Hopper's tensor cores
//
// shape   x: [m, k]   w: [2 * ffn, k]   both as tensor maps, with boxes of 128 and of 112 rows by 64 columns
//         out: [m, ffn], rows by stride
// launch  grid = any number of clusters of two blocks, which stride over tiles; block = 384; shared = 211008
// needs   k > 0; what tensor maps need: rows of x and w at multiples of 16 bytes; out apart from x and w
// how     a cluster computes tiles of 256 rows by 112 gates and as many ups, each block 128 of the rows. One thread of a block
//         has the copy engine fill a ring of four slots with 64 columns of its rows, the gates and the ups: one block's thread
//         sends the gates to both blocks, the other's the ups. Two groups of four warps multiply 64 rows each with all of a
//         slot: a thread comes to hold gate and up of the same outputs, so that the products never leave it
// cost    4 * m * ffn * k operations; moves x ffn / 112 times and w m / 256 times, from the cache at best

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
// The order in which blocks take the tiles of a product. Needs common.cuh.

// Row and column of a tile. Sixteen rows of tiles are walked together, column by column, so that blocks that run at the
// same time read the same rows of both operands.
__device__ inline void place(u64 tile, u64 down, u64 across, u64& row, u64& column) {
    u64 band = tile / (16 * across) * 16, high = min(down - band, 16ull), inside = tile - band * across;
    row = band + inside % high, column = inside / high;
}

const u32 ROWS = 128, HALF = 112, DEPTH = 64, STAGES = 4, PITCH = HALF + 8, PIECES = HALF / 8;
const u32 LEFT = ROWS * DEPTH * 2, RIGHT = HALF * DEPTH * 2, STAGE = LEFT + 2 * RIGHT;

#define SUMS112 SUMS64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, " \
    "%84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, " \
    "%107, %108, %109, %110, %111"

// s += a * b, of 64 x 16 and 16 x 224 in shared memory, by four warps.
__device__ inline void multiply_wide(f32 (&s)[2 * PIECES][4], u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n224k16" TYPES SUMS112 "}, %112, %113, 1, 1, 1, 0, 0;"
                 : SIXTEEN(s, 0), SIXTEEN(s, 4), SIXTEEN(s, 8), SIXTEEN(s, 12), SIXTEEN(s, 16), SIXTEEN(s, 20), SIXTEEN(s, 24)
                 : "l"(a), "l"(b));
}

// f(row, output) of the first of this block's part of each tile of its cluster.
template <class F> __device__ inline void for_each_tile(u64 m, u64 ffn, F f) {
    u64 down = (m + 2 * ROWS - 1) / (2 * ROWS), across = (ffn + HALF - 1) / HALF, i, j;
    for (u64 tile = blockIdx.x / 2; tile < down * across; tile += gridDim.x / 2) {
        place(tile, down, across, i, j);
        f((2 * i + cluster_rank()) * ROWS, j * HALF);
    }
}

// By every warp that read a slot, once: tells both blocks of the cluster.
__device__ inline void leave(const Ring<STAGES, STAGE>& ring, u32 item) {
    if (threadIdx.x % 32 < 2) barrier_arrive_at(ring.full + (STAGES + item % STAGES) * 8, threadIdx.x % 32);
}

// sums += 64 rows, those of this side, by all columns of the ring's next `steps` items.
__device__ inline void multiply_all(f32 (&sums)[2 * PIECES][4], const Ring<STAGES, STAGE>& ring, u32 side, u32 steps,
                                    u32& item) {
    for (u32 step = 0; step < steps; step++, item++) {
        ring.wait_full(item);
        products_begin();
        u32 left = ring.slot(item) + side * (LEFT / 2), right = ring.slot(item) + LEFT;
#pragma unroll
        for (u32 at = 0; at < DEPTH / 16; at++)
            multiply_wide(sums, descriptor(left + at * 32, 16, 1024), descriptor(right + at * 32, 16, 1024));
        products_end_group();
        if (step == 0) continue;
        products_wait<1>();
        leave(ring, item - 1);
    }
    products_wait<0>();
    take(sums);
    leave(ring, item - 1);
}

__device__ inline f32 swiglu(f32 gate, f32 up) { return __fdividef(gate, 1.0f + __expf(-gate)) * up; }

// Puts the outputs of a warp's 16 rows, from (i, j) on, together in shared memory, and from there in place.
__device__ inline void write(scalar* out, u64 stride, u64 m, u64 ffn, u64 i, u64 j, scalar* space,
                             const f32 (&sums)[2 * PIECES][4]) {
    u32 lane = threadIdx.x % 32;
    bool even = aligned(out, stride, m);
#pragma unroll
    for (u32 e = 0; e < 2 * PIECES; e++) {
        const f32(&gate)[4] = sums[e / 2], (&up)[4] = sums[PIECES + e / 2];
        u32 row = lane / 4 + e % 2 * 8, column = e / 2 * 8 + lane % 4 * 2, low = e % 2 * 2;
        f32 first = swiglu(gate[low], up[low]), second = swiglu(gate[low + 1], up[low + 1]);
        *(u32*)(space + row * PITCH + column) = pair(first, second, scalar());
    }
    __syncwarp();
#pragma unroll
    for (u32 item = lane; item < 16 * PIECES; item += 32) {
        u64 row = i + item / PIECES, column = j + item % PIECES * 8;
        if (row >= m || column >= ffn) continue;
        const scalar* from = space + item / PIECES * PITCH + item % PIECES * 8;
        scalar* to = out + row * stride + column;
        if (even && ffn - column >= 8) *(uint4*)to = *(const uint4*)from;
        else for (u32 e = 0; e < 8 && column + e < ffn; e++) to[e] = from[e];
    }
    __syncwarp();
}

extern "C" __global__ void __launch_bounds__(384)
swiglu_wgmma(scalar* out, u64 out_stride, const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, u64 m,
             u64 ffn, u64 k) {
    u32 start = shared_address(dynamic), barriers = start + STAGES * STAGE + ROWS * PITCH * 2, rank = cluster_rank();
    u32 steps = (k + DEPTH - 1) / DEPTH, item = 0;
    Ring<STAGES, STAGE> ring = {start, barriers};
    if (threadIdx.x < 2 * STAGES) barrier_init(barriers + threadIdx.x * 8, threadIdx.x < STAGES ? 1 : 16);
    barriers_show();
    cluster_meets();
    // The same for all threads of a warp, as the compiler does not know of an index.
    u32 role = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    if (role == 0) {
        registers_shrink<40>();
        if (threadIdx.x == 0) for_each_tile(m, ffn, [&](u64 i, u64 j) {
            for (u32 step = 0; step < steps; step++, item++) {
                ring.wait_empty(item);
                u32 to = ring.slot(item), full = ring.full + item % STAGES * 8;
                barrier_expect(full, STAGE);
                fetch(to, x, step * DEPTH, (u32)i, full);
                fetch_for_both(to + LEFT + rank * RIGHT, w, step * DEPTH, (u32)(rank * ffn + j), full);
            }
        });
        __syncwarp();
    } else {
        registers_grow<232>();
        u32 warp = threadIdx.x / 32 - 4;
        for_each_tile(m, ffn, [&](u64 i, u64 j) {
            f32 sums[2 * PIECES][4] = {};
            multiply_all(sums, ring, role - 1, steps, item);
            scalar* space = (scalar*)(dynamic + STAGES * STAGE) + warp * 16 * PITCH;
            write(out, out_stride, m, ffn, i + warp * 16, j, space, sums);
        });
    }
    // A block's shared memory is written by the other.
    cluster_meets();
}
