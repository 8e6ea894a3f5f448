// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): four words from a seed and a counter.

__device__ inline uint4 philox(u64 seed, u64 counter) {
    u32 key0 = (u32)seed, key1 = (u32)(seed >> 32);
    uint4 c = make_uint4((u32)counter, (u32)(counter >> 32), 0, 0);
    for (u32 round = 0; round < 10; round++) {
        u64 a = (u64)c.x * 0xd2511f53u, b = (u64)c.z * 0xcd9e8d57u;
        c = make_uint4((u32)(b >> 32) ^ c.y ^ key0, (u32)b, (u32)(a >> 32) ^ c.w ^ key1, (u32)a);
        key0 += 0x9e3779b9u, key1 += 0xbb67ae85u;
    }
    return c;
}
