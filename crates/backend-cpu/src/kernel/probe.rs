//! What this machine can do at most, for benchmarks to compare with.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::lanes::{Kernel, Lanes, dispatch};

/// How long a probe repeats its measurement.
const PATIENCE: Duration = Duration::from_millis(300);

/// Bytes per second that the threads of the current pool read from a buffer of at least `bytes` bytes: the best
/// of several passes. A buffer larger than the caches measures memory.
pub(crate) fn read_bandwidth(bytes: usize) -> f64 {
    let threads = rayon::current_num_threads();
    let len = (bytes / size_of::<f32>()).next_multiple_of(threads * 1024).max(threads * 1024);
    let mut buffer = vec![0.0_f32; len];
    let part = len / threads;
    buffer.par_chunks_mut(part).for_each(|part| part.fill(1.0));
    let read = || {
        let start = Instant::now();
        let sum: f32 = buffer.par_chunks(part).with_max_len(1).map(|part| dispatch(Sum(part))).sum();
        black_box(sum);
        start.elapsed()
    };
    (len * size_of::<f32>()) as f64 / fastest(read).as_secs_f64()
}

/// Floating-point operations per second of all threads of the current pool, each doing fused multiply-adds of
/// its widest vectors in registers: a multiply-add counts as two operations.
pub(crate) fn fma_peak() -> f64 {
    const ROUNDS: usize = 1 << 20;
    let threads = rayon::current_num_threads();
    let lanes: usize = dispatch(Width);
    let work = || {
        let start = Instant::now();
        let sum: f32 = (0..threads).into_par_iter().with_max_len(1).map(|_| dispatch(Fma(ROUNDS))).sum();
        black_box(sum);
        start.elapsed()
    };
    (2 * CHAINS * lanes * ROUNDS * threads) as f64 / fastest(work).as_secs_f64()
}

fn fastest(mut pass: impl FnMut() -> Duration) -> Duration {
    let start = Instant::now();
    let mut best = pass();
    for _ in 0..64 {
        best = best.min(pass());
        if start.elapsed() > PATIENCE {
            break;
        }
    }
    best.max(Duration::from_nanos(1))
}

/// Sums a slice, reading it from front to back.
struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> f32 {
        let (vectors, _) = S::as_simd_f32s(self.0);
        let (blocks, _) = vectors.as_chunks::<8>();
        let mut sums = [simd.splat_f32s(0.0); 8];
        for block in blocks {
            for (sum, &v) in sums.iter_mut().zip(block) {
                *sum = simd.add_f32s(*sum, v);
            }
        }
        sums.iter().map(|&sum| simd.reduce_sum_f32s(sum)).sum()
    }
}

struct Width;

impl Kernel for Width {
    type Output = usize;

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// Independent accumulators: enough to hide the latency of a multiply-add on two ports.
const CHAINS: usize = 12;

struct Fma(usize);

impl Kernel for Fma {
    type Output = f32;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> f32 {
        let factor = simd.splat_f32s(black_box(0.5));
        let term = simd.splat_f32s(black_box(0.25));
        let mut sums = [factor; CHAINS];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = simd.fma(*sum, factor, term);
            }
        }
        sums.iter().map(|&sum| simd.reduce_sum_f32s(sum)).sum()
    }
}
