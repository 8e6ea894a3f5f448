// What silu and swiglu share. Needs common.cuh.

// x / (1 + exp(-x)), off by at most (8 + |x|) 2^-23 of it; -0 where exp(-x) leaves the range of f32.
__device__ inline f32 silu_of(f32 x) {
    f32 quarter, inverse;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(quarter) : "f"(fmaf(x, -1.4426950408889634f, -2.0f)));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(0.25f + quarter));
    return x * 0.25f * inverse;
}
