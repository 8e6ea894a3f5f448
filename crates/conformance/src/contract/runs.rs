//! Steps, threads, and the same bits from the same work.

use std::thread;

use backend_api::{DType, Error, KernelBackend, Result as BackendResult};

use super::tiny::{CONTEXT, Tiny};
use super::{part, refused};
use crate::report::{Problem, Step, ensure};
use crate::{Failure, Group};

/// Steps of a run: as many as the cache holds, and in the quick group one that is issued, one that is captured where steps
/// are, and two that are replayed.
fn steps(group: Group) -> usize {
    if group == Group::Full { CONTEXT - 2 } else { 4 }
}

/// What each step of a run leaves behind.
type States = Vec<Vec<Vec<u8>>>;

/// Steps issued one operation after the other.
fn eager<B: KernelBackend>(b: &B, dtype: DType, seed: u64, steps: usize) -> BackendResult<States> {
    let mut tiny = Tiny::new(b, dtype, seed)?;
    (0..steps).map(|i| tiny.issue(b, Some(i)).and_then(|()| tiny.state(b))).collect()
}

/// The same through [`KernelBackend::step`].
fn stepped<B: KernelBackend>(b: &B, dtype: DType, seed: u64, steps: usize) -> BackendResult<States> {
    let (mut tiny, mut graph) = (Tiny::new(b, dtype, seed)?, B::Graph::default());
    let step = |i| {
        b.step(&mut graph, i, &mut |b, first| tiny.issue(b, first))?;
        tiny.state(b)
    };
    (0..steps).map(step).collect()
}

fn same(what: &str, got: &States, want: &States) -> Step {
    const NAMES: [&str; 6] = ["history", "position", "id", "logits", "key cache", "value cache"];
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        for ((got, want), name) in got.iter().zip(want).zip(NAMES) {
            let wrong = got.iter().zip(want).position(|(g, w)| g != w);
            ensure(wrong.is_none(), || format!("{what}: step {step}, {name}: byte {wrong:?} differs"))?;
        }
    }
    ensure(got.len() == want.len(), || format!("{what}: {} steps of {}", got.len(), want.len()))
}

/// A step gives the bits of its operations issued one by one, the first time and again; it allocates nothing
/// and copies nothing.
///
/// # Errors
/// The first part that fails.
pub fn steps_equal_eager<B: KernelBackend>(make: impl Fn() -> B, group: Group) -> Result<(), Failure> {
    let steps = steps(group);
    let b = make();
    part("steps_equal_eager", || {
        for dtype in DType::FLOATS {
            let want = eager(&b, dtype, 1, steps)?;
            let distinct = want.windows(2).all(|pair| pair[0] != pair[1]);
            ensure(distinct, || format!("{dtype}: a step left everything as it was"))?;
            same(&format!("{dtype}: through step"), &stepped(&b, dtype, 1, steps)?, &want)?;
        }
        let (mut tiny, mut graph) = (Tiny::new(&b, DType::F32, 2)?, B::Graph::default());
        b.step(&mut graph, 0, &mut |b, first| tiny.issue(b, first))?;
        let before = b.counters();
        for i in 1..4 {
            b.step(&mut graph, i, &mut |b, first| tiny.issue(b, first))?;
        }
        let after = b.counters();
        let still = |c: backend_api::Counters| (c.allocations, c.writes, c.reads);
        ensure(still(before) == still(after), || format!("steps moved {before:?} to {after:?}"))?;
        let worked = after.launches > before.launches || after.replays == before.replays + 3;
        ensure(worked, || format!("steps were counted neither as launches nor as replays: {after:?}"))
    })
}

/// A step whose body fails gives the body's error, and both backend and graph stay usable.
///
/// # Errors
/// The first part that fails.
pub fn errors_in_steps<B: KernelBackend>(make: impl Fn() -> B, group: Group) -> Result<(), Failure> {
    let steps = steps(group);
    let b = make();
    part("errors_in_steps", || {
        let want = eager(&b, DType::F32, 3, steps)?;
        let (mut tiny, mut graph) = (Tiny::new(&b, DType::F32, 3)?, B::Graph::default());
        let mut spare = Tiny::new(&b, DType::F32, 4)?;
        for _ in 0..2 {
            let mut body = |b: &B, first| {
                spare.issue(b, first)?;
                Err(Error::Argument { name: "test", reason: "on purpose".into() })
            };
            let result = b.step(&mut graph, 0, &mut body);
            refused("a failing step", result, |e| matches!(e, Error::Argument { name: "test", .. }))?;
        }
        let mut states = States::new();
        for i in 0..steps {
            b.step(&mut graph, i, &mut |b, first| tiny.issue(b, first))?;
            states.push(tiny.state(&b)?);
        }
        same("after failed steps", &states, &want)?;
        same("eager after failed steps", &eager(&b, DType::F32, 3, steps)?, &want)
    })
}

/// Several threads on one backend get what one alone gets.
///
/// # Errors
/// The first part that fails.
pub fn threads_give_the_serial_bits<B: KernelBackend>(
    make: impl Fn() -> B,
    group: Group,
) -> Result<(), Failure> {
    let steps = steps(group);
    let b = make();
    part("threads_give_the_serial_bits", || {
        let wanted =
            (0..4).map(|seed| eager(&b, DType::F32, seed, steps)).collect::<BackendResult<Vec<_>>>()?;
        let parallel = thread::scope(|scope| {
            let run = |seed| {
                let b = &b;
                scope.spawn(move || {
                    if seed % 2 == 0 {
                        eager(b, DType::F32, seed, steps)
                    } else {
                        stepped(b, DType::F32, seed, steps)
                    }
                })
            };
            let threads: Vec<_> = (0..4).map(run).collect();
            threads.into_iter().map(|t| t.join()).collect::<Vec<_>>()
        });
        for (seed, (got, want)) in parallel.into_iter().zip(&wanted).enumerate() {
            let got = got.map_err(|_| Problem::Wrong(format!("thread {seed} panicked")))??;
            same(&format!("thread {seed}"), &got, want)?;
        }
        Ok(())
    })
}

/// The same work gives the same bits again, on the same backend and on another.
///
/// # Errors
/// The first part that fails.
pub fn runs_are_repeatable<B: KernelBackend>(make: impl Fn() -> B, group: Group) -> Result<(), Failure> {
    let steps = steps(group);
    let (a, b) = (make(), make());
    part("runs_are_repeatable", || {
        for dtype in DType::FLOATS {
            let want = eager(&a, dtype, 5, steps)?;
            same("again", &eager(&a, dtype, 5, steps)?, &want)?;
            same("on another backend", &eager(&b, dtype, 5, steps)?, &want)?;
            let (m, n, k) = if group == Group::Full { (37, 129, 2053) } else { (9, 33, 64) };
            let product = |b: &B| {
                let (mut x, mut w) = (b.alloc(&[m, k], dtype)?, b.alloc(&[n, k], dtype)?);
                b.fill_random(&mut x, 1, 1.0)?;
                b.fill_random(&mut w, 2, 1.0)?;
                b.download(&b.matmul(&x, &w)?)
            };
            let want = product(&a)?;
            for _ in 0..3 {
                ensure(product(&a)? == want, || format!("{dtype}: a product differs from run to run"))?;
            }
            ensure(product(&b)? == want, || format!("{dtype}: a product differs on another backend"))?;
        }
        Ok(())
    })
}
