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
        u64 each = ((s.n + s.splits - 1) / s.splits + 31) / 32 * 32;
        tile = index % s.tiles(), split = index / s.tiles();
        column = tile % s.across() * COLUMNS, kv_head = tile / s.across() % s.n_kv_heads;
        output = tile / s.across() / s.n_kv_heads * OUTPUTS;
        first = min(split * each, s.n), last = min(first + each, s.n);
    }
    // The row of weights, and where in `out` output i begins.
    __device__ u64 weights_row(const Shape& s, u32 i) const {
        u64 pair = output + i;
        return (pair / s.group * s.n_kv_heads + kv_head) * s.group + pair % s.group;
    }
    __device__ u64 out_row(const Shape& s, u32 i) const { return (output + i) / s.group; }
    __device__ u64 out_column(const Shape& s, u32 i) const {
        return (kv_head * s.group + (output + i) % s.group) * (u64)s.cols + column;
    }
};

// Adds up what the eight warps found, and what the splits found, and writes the result.
__device__ inline void meet(f32 (*found)[OUTPUTS][COLUMNS], const Work& work, const Shape& s, scalar* out,
                            u64 out_stride, f32* partials, u32* counters) {
    __syncthreads();
    const u32 all = OUTPUTS * COLUMNS;
    f32 sums[all / 256];
    for (u32 e = 0; e < all / 256; e++) {
        u32 at = threadIdx.x + e * 256;
        sums[e] = 0.0f;
        for (u32 warp = 0; warp < 8; warp++) sums[e] += (&found[warp][0][0])[at];
        if (s.splits > 1) partials[(work.tile * s.splits + work.split) * all + at] = sums[e];
    }
    bool mine = s.splits == 1 || last_of(counters + work.tile, s.splits);
    for (u32 e = 0; e < all / 256 && mine; e++) {
        u32 at = threadIdx.x + e * 256, i = at / COLUMNS, c = at % COLUMNS;
        if (s.splits > 1) sums[e] = sum_of(partials + work.tile * s.splits * all + at, all, s.splits);
        if (work.output + i < s.m * s.group && work.column + c < s.cols)
            store(out + work.out_row(s, i) * out_stride + work.out_column(s, i) + c, sums[e]);
    }
    __syncthreads();
}
