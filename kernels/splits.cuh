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
