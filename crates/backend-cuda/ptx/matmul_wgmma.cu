// matmul_wgmma: out[i, j] = sum_c x[i, c] * w[j, c] (+ out[i, j] if `accumulate`), for many rows of x, on Hopper's tensor cores
//
// shape   x: [m, k]   w: [n, k], or [k, n] if `plain`   out: [m, n], f32 if `wide_out`   rows by stride
// launch  grid = any number of clusters, which stride over tiles; block = 256; shared = 196608
// needs   k a multiple of 8, n too if `plain`; rows of x and w at multiples of 16 bytes; out apart from x and w
// how     a block computes tiles of 128 x 256, each of its two groups of four warps 64 rows of it, in steps of 64 columns.
//         Four steps are in shared memory or on the way to it: one is multiplied, one may still be, two are filled. The
//         products read shared memory themselves and run on while the warps ask for the next step. The blocks of a cluster
//         share a tile: each takes its part of k, then adds up its part of the sums of all, in the order of the blocks.
// cost    2 * m * n * k operations; moves x n / 256 times and w m / 128 times, from the cache at best

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
// The order in which blocks take the tiles of a product. Needs common.cuh.

// Row and column of a tile. Sixteen rows of tiles are walked together, column by column, so that blocks that run at the
// same time read the same rows of both operands.
__device__ inline void place(u64 tile, u64 down, u64 across, u64& row, u64& column) {
    u64 band = tile / (16 * across) * 16, high = min(down - band, 16ull), inside = tile - band * across;
    row = band + inside % high, column = inside / high;
}

const u32 ROWS = 128, COLS = 256, DEPTH = 64, STAGES = 4, THREADS = 256, PITCH = COLS + 8;
const u32 RIGHT = ROWS * DEPTH * 2, STAGE = (ROWS + COLS) * DEPTH * 2;

template <u32 PLAIN> __device__ inline void copy(const Operands& of, u32 slot, u64 i, u64 j, u64 step) {
    copy_step<PLAIN, ROWS, COLS, DEPTH, THREADS>(shared_address(dynamic) + slot * STAGE, of, i, j, step);
}

// Sums over the steps first .. last of the tile at (i, j).
template <u32 PLAIN>
__device__ inline void run(f32 (&sums)[4][8][4], const Operands& of, u64 first, u64 last, u64 i, u64 j) {
    u32 mine = shared_address(dynamic) + threadIdx.x / 128 * 64 * DEPTH * 2, slot = 0;
#pragma unroll
    for (u32 s = 0; s < STAGES - 2; s++) {
        if (first + s < last) copy<PLAIN>(of, s, i, j, first + s);
        copies_end_group();
    }
    for (u64 step = first; step < last; step++) {
        copies_wait<STAGES - 3>();
        show_copies_to_products();
        __syncthreads();
        products_begin();
        u32 left = mine + slot * STAGE, right = shared_address(dynamic) + slot * STAGE + RIGHT;
#pragma unroll
        for (u32 at = 0; at < DEPTH / 16; at++)
            multiply<PLAIN>(sums, descriptor(left + at * 32, 16, 1024),
                            PLAIN ? descriptor(right + at * 2048, DEPTH * 128, 1024) : descriptor(right + at * 32, 16, 1024));
        products_end_group();
        // The slot of the step before last: every warp has waited for its products since.
        u32 filled = (slot + STAGES - 2) % STAGES;
        if (step + STAGES - 2 < last) copy<PLAIN>(of, filled, i, j, step + STAGES - 2);
        copies_end_group();
        products_wait<1>();
        slot = (slot + 1) % STAGES;
    }
    products_wait<0>();
    // The sums are written behind the compiler's back until here.
#pragma unroll
    for (u32 e = 0; e < 128; e++) asm volatile("" : "+f"(sums[e / 32][e / 4 % 8][e % 4])::"memory");
}

extern "C" __global__ void __launch_bounds__(256)
matmul_wgmma(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const weight* w, u64 w_stride, u64 m, u64 n, u64 k,
             u32 plain, u32 accumulate, u32 wide_out) {
    Operands of = {x, w, x_stride, w_stride, m, n, k};
    Output to = {out, out_stride, m, n, accumulate != 0, wide_out != 0};
    u64 down = (m + ROWS - 1) / ROWS, across = (n + COLS - 1) / COLS, steps = (k + DEPTH - 1) / DEPTH;
    u32 rank = cluster_rank(), blocks = cluster_blocks();
    for (u64 tile = blockIdx.x / blocks; tile < down * across; tile += gridDim.x / blocks) {
        u64 i, j;
        place(tile, down, across, i, j);
        i *= ROWS, j *= COLS;
        f32 sums[4][8][4] = {};
        u64 first = steps * rank / blocks, last = steps * (rank + 1) / blocks;
        if (plain) run<1>(sums, of, first, last, i, j);
        else run<0>(sums, of, first, last, i, j);
        __syncthreads();
        f32* space = (f32*)dynamic;
#pragma unroll
        for (u32 p = 0; p < 4; p++) stage<PITCH>(space + threadIdx.x / 32 * 16 * PITCH + p * 64, sums[p]);
        cluster_meets();
        // Each block of the cluster adds up and writes its part of the rows.
        auto add = [=](f32 (&sum)[8], u32 row, u32 column) {
            for (u32 b = 0; b < blocks; b++) add_remote(sum, shared_address(space + row * PITCH + column), b);
        };
        write_rows<COLS>(to, i, j, ROWS, rank, blocks, add);
        cluster_meets();
    }
}
