// What products on tensor cores share: copies into shared memory, and the way of sums to the output.

#include "common.cuh"

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
