//! Captured steps beside what other threads do, and where the driver breaks a capture off.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use backend_api::ops::Add;
use backend_api::{DType, HostTensor, Io, KernelBackend, Mat, MatMut, Op, Result};

use super::child;
use crate::device::driver;
use crate::graph::{self, CudaGraph};
use crate::kernels::archive;
use crate::{CudaBackend, CudaTensor, KernelSource};

/// Additions of a step: enough that other threads come between them.
const ADDS: usize = 40;

/// A tensor of zeros to which each step adds [`ADDS`].
struct Sum {
    sum: CudaTensor,
    ones: CudaTensor,
    graph: CudaGraph,
    /// Steps so far.
    steps: usize,
}

impl Sum {
    const LENGTH: usize = 1025;

    fn new(b: &CudaBackend) -> Self {
        let all = |value: f32| HostTensor::from_vec(&[1, Self::LENGTH], vec![value; Self::LENGTH]).unwrap();
        let [sum, ones] = [0.0, 1.0].map(|value| b.to_device(&all(value)).unwrap());
        Self { sum, ones, graph: CudaGraph::default(), steps: 0 }
    }

    fn step(&mut self, b: &CudaBackend) {
        self.step_with(b, &mut |_| Ok(()));
    }

    /// One step, of which `before(n)` comes before addition n, and then whether the sum is as it must be.
    fn step_with(&mut self, b: &CudaBackend, before: &mut (dyn FnMut(usize) -> Result<()> + Send)) {
        let Self { sum, ones, .. } = self;
        let mut body = |b: &CudaBackend, _| {
            for n in 0..ADDS {
                before(n)?;
                let op = Add { io: Io::InPlace(MatMut::new(sum)), y: Mat::new(ones) };
                b.add_into(op.check()?)?;
            }
            before(ADDS)
        };
        b.step(&mut self.graph, 0, &mut body).unwrap();
        self.steps += 1;
        let want = (self.steps * ADDS) as f32;
        let sums = b.to_host(&self.sum).unwrap().to_f32();
        assert!(sums.iter().all(|v| *v == want), "after {} steps: {sums:?}", self.steps);
    }
}

fn product(b: &CudaBackend) -> Vec<u8> {
    let [mut x, mut w] = [[64, 512], [256, 512]].map(|shape| b.alloc(&shape, DType::BF16).unwrap());
    b.fill_random(&mut x, 1, 1.0).unwrap();
    b.fill_random(&mut w, 2, 1.0).unwrap();
    b.download(&b.matmul(&x, &w).unwrap()).unwrap()
}

/// What threads of a program may do while another one captures.
fn disturbances(b: &CudaBackend) -> [Box<dyn Fn() + Send + '_>; 5] {
    let want = product(b);
    let image = archive::ptx("add", DType::F32, DType::F32, b.inner.device.target).unwrap();
    [
        Box::new(|| {
            let mut large = b.alloc(&[16 << 20], DType::F32).unwrap();
            b.fill_random(&mut large, 1, 1.0).unwrap();
            drop(large);
            let _ = b.trim();
        }),
        Box::new(move || assert!(product(&CudaBackend::new().unwrap()) == want, "on another backend")),
        Box::new(|| {
            let host = HostTensor::from_vec(&[3 << 20], (0..3 << 20).map(|i| i as f32).collect()).unwrap();
            assert!(b.to_host(&b.to_device(&host).unwrap()).unwrap() == host);
        }),
        Box::new(|| {
            let from = b.record().unwrap();
            b.synchronize().unwrap();
            assert!(b.elapsed(&from, &b.record().unwrap()).unwrap() >= 0.0);
            assert!(b.memory().free.unwrap() > 0);
        }),
        Box::new(move || {
            let kernel =
                b.inner.device.load("add", KernelSource::Embedded, image.clone().into_bytes()).unwrap();
            b.inner.device.function(kernel, 0).unwrap();
            Sum::new(b).step(b);
        }),
    ]
}

/// Set when it is dropped, by a panic too.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn steps_are_captured_whatever_other_threads_do() {
    let b = CudaBackend::new().unwrap();
    let disturbances = disturbances(&b);
    let (is_over, rounds) = (AtomicBool::new(false), 40);
    let before = b.counters();
    let disturbed: usize = thread::scope(|scope| {
        let over = Over(&is_over);
        let is_over = &is_over;
        let threads = disturbances.map(|disturb| {
            scope.spawn(move || {
                (0..).take_while(|_| !is_over.load(Relaxed)).inspect(|_: &u32| disturb()).count()
            })
        });
        for _ in 0..rounds {
            let mut sum = Sum::new(&b);
            (0..5).for_each(|_| sum.step(&b));
        }
        drop(over);
        threads.map(|thread| thread.join().unwrap()).into_iter().sum()
    });
    let after = b.counters();
    println!("{disturbed} disturbances of {rounds} captures");
    assert_eq!((after.captures - before.captures, after.replays - before.replays), (rounds, 3 * rounds));
}

/// What breaks a capture off costs a run that is issued. The next is captured.
fn is_issued_then_captured(breaks: &(dyn Fn(&CudaBackend) -> Result<()> + Sync)) {
    for at in [0, ADDS / 2, ADDS] {
        let b = CudaBackend::new().unwrap();
        let mut sum = Sum::new(&b);
        let counts = |b: &CudaBackend| (b.counters().captures, b.counters().replays);
        sum.step(&b);
        for _ in 0..2 {
            let mut broken = 0;
            sum.step_with(&b, &mut |n| {
                if n == at && graph::is_capturing(&b.inner.device) {
                    broken += 1;
                    breaks(&b)?;
                }
                Ok(())
            });
            assert_eq!((broken, counts(&b)), (1, (0, 0)), "broken off before addition {at}");
        }
        sum.step(&b);
        assert_eq!(counts(&b), (1, 0), "captured");
        sum.step(&b);
        assert_eq!(counts(&b), (1, 1), "replayed");
    }
}

#[expect(unsafe_code, reason = "a call of the driver")]
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_capture_that_its_own_thread_breaks_off_costs_a_run() {
    is_issued_then_captured(&|b| {
        // SAFETY: the stream is alive. One that is captured cannot be waited for.
        let answer = unsafe { driver::stream_synchronize(graph::stream(&b.inner.device)) };
        answer.map_err(|e| b.inner.device.failed("waiting", e))
    });
}

#[expect(unsafe_code, reason = "a call of the driver")]
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_capture_that_another_thread_breaks_off_costs_a_run() {
    if !child::is_child() {
        // It would break off those of other tests.
        child::run("device::tests::captures::a_capture_that_another_thread_breaks_off_costs_a_run", &[]);
        return;
    }
    is_issued_then_captured(&|b| {
        thread::scope(|scope| {
            scope.spawn(|| {
                b.inner.device.bind().unwrap();
                // SAFETY: the context is current.
                assert!(unsafe { driver::ctx_synchronize() }.is_err(), "there is a capture in the context");
            });
        });
        Ok(())
    });
}
