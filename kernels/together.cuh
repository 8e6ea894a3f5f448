// Steps of a grid whose blocks all run at once. Needs common.cuh.

// Counters: blocks that arrived so far, blocks that left; both start and end at 0.
struct Together {
    u32* counters;
    u32 arrived;

    __device__ Together(u32* counters) : counters(counters), arrived(0) {}

    // Waits for all blocks, whose writes are then seen past L1. Called by all threads.
    __device__ void wait() {
        __syncthreads();
        if (threadIdx.x == 0 && gridDim.x > 1) {
            arrived += gridDim.x;
            __threadfence();
            atomicAdd(counters, 1);
            while (*(volatile u32*)counters < arrived) {}
            __threadfence();
        }
        __syncthreads();
    }

    // After the last wait.
    __device__ void leave() const {
        if (threadIdx.x > 0 || arrived == 0) return;
        if (atomicAdd(counters + 1, 1) + 1 == gridDim.x) counters[0] = counters[1] = 0;
    }
};

// v of every thread of a block of 1024 folded, for every thread.
template <class V, class F> __device__ inline V whole_fold(V v, F f) {
    __shared__ V slots[32];
    v = lanes_fold(v, 32, f);
    __syncthreads();
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = v;
    __syncthreads();
    return lanes_fold(slots[threadIdx.x % 32], 32, f);
}

// v of this thread and of those before it, added.
template <class V> __device__ inline V block_scan(V v) {
    __shared__ V slots[32];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (u32 step = 1; step < 32; step *= 2) {
        V lower = __shfl_up_sync(0xffffffffu, v, step);
        if (lane >= step) v += lower;
    }
    __syncthreads();
    if (lane == 31) slots[warp] = v;
    __syncthreads();
    return v + lanes_fold(lane < warp ? slots[lane] : (V)0, 32, [](V a, V b) { return a + b; });
}
