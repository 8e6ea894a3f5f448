// What both kernels of weighted_sum_rows share: how the work is divided, and how its parts meet. Needs common.cuh and
// merge.cuh.
//
// A piece of work is up to 8 outputs (rows of weights that share a head of `rows`) by 64 columns by a part of the rows.

const u32 OUTPUTS = 8, COLUMNS = 64;

struct Shape {
    u64 m, n;
    u32 n_kv_heads, group, cols, splits;

    __device__ u64 tiles() const { return (m * group + OUTPUTS - 1) / OUTPUTS * n_kv_heads * across(); }
    __device__ u32 across() const { return (cols + COLUMNS - 1) / COLUMNS; }
};

struct Work {
    u64 tile, first, last, output;  // rows first .. last; output: of those that share a head
    u32 kv_head, column, split;

    __device__ Work(u64 index, const Shape& s) {
        u64 each, part, at, line, row, rest;
        divide(s.n + s.splits - 1, s.splits, each, rest);
        each = (each + 31) / 32 * 32;
        divide(index, s.tiles(), part, tile);
        divide(tile, s.across(), line, at);
        split = part, column = at * COLUMNS;
        divide(line, s.n_kv_heads, row, at);
        kv_head = at, output = row * OUTPUTS;
        first = min(split * each, s.n), last = min(first + each, s.n);
    }
    // The row of weights of output i.
    __device__ u64 weights_row(const Shape& s, u32 i) const {
        u64 row, head;
        divide(output + i, s.group, row, head);
        return (row * s.n_kv_heads + kv_head) * s.group + head;
    }
    // Where in `out` it begins.
    __device__ u64 out_at(const Shape& s, u32 i, u64 stride) const {
        u64 row, head;
        divide(output + i, s.group, row, head);
        return row * stride + ((u64)kv_head * s.group + head) * s.cols + column;
    }
};

// Adds up what the eight warps found, and what the splits found, and writes the result.
__device__ inline void meet(f32 (*found)[OUTPUTS][COLUMNS], const Work& work, const Shape& s, scalar* out,
                            u64 out_stride, f32* partials, u32* counters) {
    __syncthreads();
    const u32 all = OUTPUTS * COLUMNS;
    u32 real = min(s.m * s.group - work.output, (u64)OUTPUTS) * COLUMNS;
    f32 sums[all / 256];
#pragma unroll
    for (u32 e = 0; e < all / 256; e++) {
        u32 at = threadIdx.x + e * 256;
        if (at >= real) continue;
        sums[e] = 0.0f;
#pragma unroll
        for (u32 warp = 0; warp < 8; warp++) sums[e] += (&found[warp][0][0])[at];
        if (s.splits > 1) partials[(work.tile * s.splits + work.split) * all + at] = sums[e];
    }
    bool mine = s.splits == 1 || last_of(counters + work.tile, s.splits);
#pragma unroll
    for (u32 e = 0; e < all / 256; e++) {
        u32 at = threadIdx.x + e * 256, i = at / COLUMNS, c = at % COLUMNS;
        if (!mine || at >= real) continue;
        if (s.splits > 1) sums[e] = sum_of(partials + work.tile * s.splits * all + at, all, s.splits);
        if (work.column + c < s.cols) store(out + work.out_at(s, i, out_stride) + c, sums[e]);
    }
    __syncthreads();
}
