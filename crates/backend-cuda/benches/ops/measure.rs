//! How an operation is timed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::Duration;

use backend_cuda::{Checked, CudaBackend, CudaTensor, DType, KernelBackend, Op, Result};
use criterion::{BenchmarkId, Criterion};

use crate::limits::Limits;

/// Bytes of the operands that are rotated through: ten times what the L2 of an H200 holds.
const ROTATED: usize = 512 << 20;

/// Most operations of a step.
const LONGEST: usize = 256;

/// Samples of a benchmark.
const SAMPLES: usize = 10;

/// Between bursts of products: computing without a break, a card lowers its clocks by and by to keep to its power.
pub(crate) const REST: Duration = Duration::from_millis(20);

/// What an operation moves and computes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cost {
    pub(crate) bytes: u64,
    pub(crate) flops: u64,
}

/// Checks an operation and issues it.
pub(crate) fn issue<O: Op>(op: O, run: impl FnOnce(Checked<O>) -> Result<()>) -> Result<Cost> {
    let op = op.check()?;
    let cost = Cost { bytes: op.get().bytes(), flops: op.get().flops() };
    run(op).map(|()| cost)
}

/// A tensor of random elements, like no other.
pub(crate) fn random(b: &CudaBackend, shape: &[usize], dtype: DType) -> Result<CudaTensor> {
    static SEED: AtomicU64 = AtomicU64::new(0);
    let mut tensor = b.alloc(shape, dtype)?;
    b.fill_random(&mut tensor, SEED.fetch_add(1, Relaxed), 0.1)?;
    Ok(tensor)
}

/// How many sets of operands of so many bytes are rotated through, at most [`LONGEST`]: where operands are so small that these
/// stay in the L2, they come from there in use, too.
pub(crate) fn sets(bytes: usize) -> usize {
    ROTATED.div_ceil(bytes.max(1)).clamp(1, LONGEST)
}

type Body = Box<dyn FnMut(&CudaBackend, usize) -> Result<Cost> + Send>;

/// Operations of one kind, each on one of several sets of operands.
pub(crate) struct Work {
    sets: usize,
    body: Body,
    rounds: usize,
    cost: Cost,
    graph: <CudaBackend as KernelBackend>::Graph,
}

impl Work {
    /// `body(backend, set)` issues the operation on that set.
    pub(crate) fn new(
        sets: usize,
        body: impl FnMut(&CudaBackend, usize) -> Result<Cost> + Send + 'static,
    ) -> Self {
        Self { sets, body: Box::new(body), rounds: 1, cost: Cost::default(), graph: Default::default() }
    }

    pub(crate) fn cost(&self) -> Cost {
        self.cost
    }

    fn round(&mut self, b: &CudaBackend) -> Result<()> {
        for set in 0..self.sets {
            self.cost = (self.body)(b, set)?;
        }
        Ok(())
    }

    /// Loads the kernels, captures the step, and makes it so long that what lies between two of them does not count.
    pub(crate) fn prepare(&mut self, b: &CudaBackend) -> Result<()> {
        self.round(b)?;
        b.synchronize()?;
        let from = b.record()?;
        self.round(b)?;
        let milliseconds = b.elapsed(&from, &b.record()?)?;
        b.synchronize()?;
        let long_enough = (1.0 / milliseconds.max(1e-3)).ceil() as usize;
        self.rounds = long_enough.min(LONGEST / self.sets).max(1);
        // Issued, captured, replayed.
        for _ in 0..3 {
            self.step(b)?;
        }
        b.synchronize()
    }

    fn step(&mut self, b: &CudaBackend) -> Result<()> {
        let Self { sets, body, rounds, cost, graph } = self;
        b.step(graph, 0, &mut |b, _| {
            for turn in 0..*sets * *rounds {
                *cost = body(b, turn % *sets)?;
            }
            Ok(())
        })
    }

    /// The device's time for one operation, over at least so many.
    pub(crate) fn seconds(&mut self, b: &CudaBackend, operations: u64) -> Result<f64> {
        let of_step = (self.sets * self.rounds) as u64;
        let steps = operations.div_ceil(of_step);
        let from = b.record()?;
        for _ in 0..steps {
            self.step(b)?;
        }
        let milliseconds = b.elapsed(&from, &b.record()?)?;
        Ok(milliseconds / 1e3 / (steps * of_step) as f64)
    }
}

/// Who runs an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The backend as it is.
    Torchless,
    /// The backend without cuBLAS.
    Own,
    /// The same with the kernels that a card of compute capability 8.0 takes.
    Older,
    Cublas,
}

impl By {
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Torchless => "",
            Self::Own => "/own",
            Self::Older => "/own-8.0",
            Self::Cublas => "/cublas",
        }
    }
}

/// Which of the card's bandwidths an operation is held against.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// It reads much more than it writes.
    Read,
    /// It writes about as much as it reads.
    Copy,
    /// It moves between host and card.
    Bus,
}

/// One benchmark.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) op: &'static str,
    pub(crate) shape: String,
    pub(crate) dtype: DType,
    pub(crate) by: By,
    pub(crate) bound: Bound,
}

impl Case {
    pub(crate) fn new(op: &'static str, shape: impl Into<String>, dtype: DType, bound: Bound) -> Self {
        Self { op, shape: shape.into(), dtype, by: By::Torchless, bound }
    }
}

/// A benchmark that has run.
pub(crate) struct Measured {
    pub(crate) case: Case,
    pub(crate) cost: Cost,
    pub(crate) seconds: f64,
}

pub(crate) struct Bench {
    pub(crate) criterion: Criterion,
    pub(crate) backend: CudaBackend,
    pub(crate) own: CudaBackend,
    /// None on an older card.
    pub(crate) older: Option<CudaBackend>,
    pub(crate) has_blas: bool,
    pub(crate) limits: Limits,
    pub(crate) results: Vec<Measured>,
}

impl Bench {
    /// Runs what `setup` gives, which is asked for only if the benchmark was not filtered out.
    pub(crate) fn run(&mut self, case: Case, setup: impl Fn(&CudaBackend) -> Result<Work>) {
        if case.by == By::Cublas && !self.has_blas {
            return;
        }
        let backend = match case.by {
            By::Torchless | By::Cublas => self.backend.clone(),
            By::Own => self.own.clone(),
            By::Older => match &self.older {
                Some(older) => older.clone(),
                None => return,
            },
        };
        let (mut work, limits, bound, dtype) = (None, self.limits, case.bound, case.dtype);
        self.time(case, |operations| {
            let work = work.get_or_insert_with(|| {
                let mut work = setup(&backend).unwrap();
                work.prepare(&backend).unwrap();
                work
            });
            let (moving, computing) = limits.seconds(work.cost(), bound, dtype);
            if computing > moving {
                sleep(REST);
            }
            (work.seconds(&backend, operations).unwrap(), work.cost())
        });
        drop(work);
        backend.trim();
    }

    /// Lets criterion ask for the seconds of one operation, over at least as many as it says.
    pub(crate) fn time(&mut self, case: Case, mut seconds: impl FnMut(u64) -> (f64, Cost)) {
        let mut samples = Vec::new();
        let mut last = Cost::default();
        let mut group = self.criterion.benchmark_group(case.op);
        group.sample_size(SAMPLES).nresamples(2000);
        group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(200));
        let name = format!("{} {}{}", case.shape, case.dtype, case.by.suffix());
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter_custom(|operations| {
                let (each, cost) = seconds(operations);
                samples.push(each);
                last = cost;
                Duration::from_secs_f64(each * operations as f64)
            });
        });
        group.finish();
        // What came before the samples was warm-up.
        let mut samples = samples.split_off(samples.len().saturating_sub(SAMPLES));
        samples.sort_by(f64::total_cmp);
        if let Some(median) = samples.get(samples.len() / 2) {
            self.results.push(Measured { case, cost: last, seconds: *median });
        }
    }
}
