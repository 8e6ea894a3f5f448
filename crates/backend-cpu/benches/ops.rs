//! Products and attention on the CPU, beside what the machine can do, measured in the same run.
//!
//! `cargo bench -p backend-cpu`; `RAYON_NUM_THREADS` sets the threads. Weights are rotated through more memory than caches hold.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::cell::Cell;
use std::time::{Duration, Instant};

use backend_api::ops::{Attention, Matmul, WeightLayout};
use backend_api::{At, DType, Heads, HostTensor, KernelBackend, Mat, MatMut, Op};
use backend_cpu::{CpuBackend, CpuTensor};
use criterion::{BenchmarkId, Criterion, Throughput};

/// Weights or caches that are rotated through, in bytes.
const ROTATED: usize = 3 << 29;

struct Bench {
    backend: CpuBackend,
    bandwidth: f64,
    peak: f64,
}

/// What a benchmark is measured against.
#[derive(Clone, Copy)]
enum Limit {
    Bytes(u64),
    Flops(u64),
}

impl Bench {
    fn random(&self, shape: &[usize], dtype: DType) -> CpuTensor {
        let mut tensor = self.backend.alloc(shape, dtype).unwrap();
        self.backend.fill_random(&mut tensor, 1, 0.1).unwrap();
        tensor
    }

    /// Runs `body(i)` for `i = 0, 1, …` and prints the share of the machine's limit that the fastest sample reached.
    fn run(&self, c: &mut Criterion, group: &str, name: &str, limit: Limit, mut body: impl FnMut(usize)) {
        let best = Cell::new(f64::INFINITY);
        let mut turn = 0;
        let mut group = c.benchmark_group(group);
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(3));
        group.throughput(match limit {
            Limit::Bytes(n) => Throughput::Bytes(n),
            Limit::Flops(n) => Throughput::Elements(n),
        });
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter_custom(|iterations| {
                let start = Instant::now();
                for _ in 0..iterations {
                    body(turn);
                    turn += 1;
                }
                let time = start.elapsed();
                best.set(best.get().min(time.as_secs_f64() / iterations as f64));
                time
            });
        });
        group.finish();
        match limit {
            Limit::Bytes(n) => {
                let rate = n as f64 / best.get();
                println!(
                    "    {:.1} GB/s, {:.0} % of the read bandwidth",
                    rate / 1e9,
                    100.0 * rate / self.bandwidth
                );
            }
            Limit::Flops(n) => {
                let rate = n as f64 / best.get();
                println!("    {:.1} GFLOP/s, {:.0} % of the FMA peak", rate / 1e9, 100.0 * rate / self.peak);
            }
        }
    }

    fn matmul(&self, c: &mut Criterion, (m, n, k): (usize, usize, usize), dtype: DType) {
        let bytes = dtype.bytes(n * k).unwrap();
        let weights: Vec<_> = (0..ROTATED.div_ceil(bytes)).map(|_| self.random(&[n, k], dtype)).collect();
        let x = self.random(&[m, k], DType::F32);
        let mut out = self.backend.alloc(&[m, n], DType::F32).unwrap();
        let (group, limit) = if m == 1 {
            ("matrix-vector", Limit::Bytes(bytes as u64))
        } else {
            ("matmul", Limit::Flops(2 * (m * n * k) as u64))
        };
        self.run(c, group, &format!("{m}x{n}x{k} {dtype}"), limit, |turn| {
            let w = Mat::new(&weights[turn % weights.len()]);
            let (x, out, layout) = (Mat::new(&x), MatMut::new(&mut out), WeightLayout::OutIn);
            let op = Matmul { x, w, out, accumulate: false, layout };
            self.backend.matmul_into(op.check().unwrap()).unwrap();
        });
    }

    fn attention(&self, c: &mut Criterion, rows: usize, context: usize, heads: Heads) {
        let dtype = DType::BF16;
        let cache = || self.random(&[context, heads.kv_dim()], dtype);
        let bytes = 2 * dtype.bytes(context * heads.kv_dim()).unwrap();
        let copies = if rows == 1 { ROTATED.div_ceil(bytes) } else { 1 };
        let caches: Vec<_> = (0..copies).map(|_| (cache(), cache())).collect();
        let q = self.random(&[rows, heads.q_dim()], DType::F32);
        let first = context - rows;
        let positions: Vec<u32> = (first..context).map(|p| p as u32).collect();
        let positions = self.backend.to_device(&HostTensor::from_vec(&[rows], positions).unwrap()).unwrap();
        let mut out = self.backend.alloc(&[rows, heads.q_dim()], DType::F32).unwrap();
        let mut scratch = self.backend.alloc(&[heads.n_heads, context], DType::F32).unwrap();
        let flops = 2 * rows * (2 * first + rows + 1) * heads.q_dim();
        let limit = if rows == 1 { Limit::Bytes(bytes as u64) } else { Limit::Flops(flops as u64) };
        let name = format!("{rows} of {context}, {} bf16", heads.head_dim);
        self.run(c, "attention", &name, limit, |turn| {
            let (k, v) = &caches[turn % caches.len()];
            let op = Attention {
                q: Mat::new(&q),
                k: Mat::new(k),
                v: Mat::new(v),
                heads,
                window: None,
                at: At { positions: Mat::vector(&positions), first: Some(first), distinct: false },
                out: MatMut::new(&mut out),
                scratch: MatMut::new(&mut scratch),
            };
            self.backend.attention(op.check().unwrap()).unwrap();
        });
    }
}

fn main() {
    let backend = CpuBackend::new();
    let info = backend.info();
    let bench = Bench { bandwidth: backend.read_bandwidth().unwrap(), peak: backend.fma_peak(), backend };
    println!("{} ({})", info.name, info.features.join(", "));
    println!("read bandwidth {:.1} GB/s, FMA peak {:.1} GFLOP/s", bench.bandwidth / 1e9, bench.peak / 1e9);
    let mut c = Criterion::default().configure_from_args();
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        bench.matmul(&mut c, (1, 4096, 14336), dtype);
    }
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        bench.matmul(&mut c, (512, 4096, 14336), dtype);
    }
    for head_dim in [64, 128] {
        let heads = Heads { n_heads: 32, n_kv_heads: 8, head_dim };
        bench.attention(&mut c, 1, 4096, heads);
        bench.attention(&mut c, 512, 2048, heads);
    }
    c.final_summary();
}
