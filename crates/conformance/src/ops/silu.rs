//! Cases of [`Silu`].

use backend_api::ops::Silu;
use backend_api::{KernelBackend, Op};

use crate::case::{Case, IoCase, Run, Types};
use crate::host::{Host, largest, smallest};
use crate::tolerance::{Judge, U, Want, exp};
use crate::{Failure, Group, Report, ops::huge, shapes};

/// `x / (1 + exp(−x))`.
pub fn silu(x: f64) -> Want {
    let e = (-x).exp();
    if e > f64::from(f32::MAX) / 2.0 {
        return Want::vanishing(x / (1.0 + e));
    }
    Want::relative(x / (1.0 + e), exp(x) * e / (1.0 + e) + 4.0 * U)
}

/// `x / (1 + exp(−x))`, elementwise.
pub fn reference(x: &Host) -> Vec<Want> {
    x.data.iter().map(|x| silu(*x)).collect()
}

/// Runs the cases.
///
/// # Errors
/// The first that fails.
pub fn run<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, Failure> {
    let mut run = Run::new(backend, "silu", group);
    if group == Group::Huge {
        huge::silu(&mut run)?;
        return Ok(run.report());
    }
    for (types, shape) in run.grid(shapes::QUICK, shapes::FULL) {
        let case = Case::new(types, format_args!("{} x {}", shape.0, shape.1));
        check(&mut run, &case, types, &Host::random(case.seed, shape, types.x, 8.0))?;
    }
    for types in run.required() {
        let (tiny, large) = (smallest(types.x), largest(types.x));
        let mut values = vec![0.0, tiny, 5.0 * tiny, 1e-4, 10.0, 17.0, 50.0, 87.0, 88.8, 104.0, large];
        values.extend(values.clone().iter().map(|v| -v));
        values.extend([f64::INFINITY, f64::NAN]);
        let x = Host::from_fn((1, values.len()), types.x, |_, c| values[c]);
        check(&mut run, &Case::new(types, "special values"), types, &x)?;
    }
    Ok(run.report())
}

fn check<B: KernelBackend>(run: &mut Run<'_, B>, case: &Case, types: Types, x: &Host) -> Result<(), Failure> {
    let b = run.backend;
    let io = IoCase { x, out: types.out, others: &[], want: &reference(x), judge: Judge::Elementwise };
    io.run(run, case, |io, _| b.silu_into(Silu { io }.check()?), |t| b.silu(t[0]))
}
