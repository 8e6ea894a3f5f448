// The order of logits as integers. Needs common.cuh.

// An integer that grows with v; equal for 0 and -0.
__device__ inline u32 order(f32 v) {
    u32 bits = __float_as_uint(__fadd_rn(v, 0.0f));
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
