//! Cases of [`Mul`].

use backend_api::ops::Mul;
use backend_api::{KernelBackend, Op};

use crate::case::{Case, IoCase, Run, Types};
use crate::host::Host;
use crate::ops::{add::specials, huge};
use crate::tolerance::{Judge, U, Want};
use crate::{Failure, Group, Report, shapes};

/// `x · y`, elementwise.
pub fn reference(x: &Host, y: &Host) -> Vec<Want> {
    x.data.iter().zip(&y.data).map(|(a, b)| Want::relative(a * b, U)).collect()
}

/// Runs the cases.
///
/// # Errors
/// The first that fails.
pub fn run<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, Failure> {
    let mut run = Run::new(backend, "mul", group);
    if group == Group::Huge {
        huge::mul(&mut run)?;
        return Ok(run.report());
    }
    for (types, shape) in run.grid(shapes::QUICK, shapes::FULL) {
        let case = Case::new(types, format_args!("{} x {}", shape.0, shape.1));
        let x = Host::random(case.seed, shape, types.x, 2.0);
        let y = Host::random(case.seed + 1, shape, types.w, 2.0);
        check(&mut run, &case, types, (&x, &y))?;
    }
    for types in run.required() {
        let values = specials(types.x);
        let shape = (values.len(), values.len());
        let x = Host::from_fn(shape, types.x, |r, _| values[r]);
        let y = Host::from_fn(shape, types.x, |_, c| values[c]);
        check(&mut run, &Case::new(types, "special values"), types, (&x, &y))?;
    }
    Ok(run.report())
}

fn check<B: KernelBackend>(
    run: &mut Run<'_, B>,
    case: &Case,
    types: Types,
    (x, y): (&Host, &Host),
) -> Result<(), Failure> {
    let b = run.backend;
    let io = IoCase { x, out: types.out, others: &[y], want: &reference(x, y), judge: Judge::Elementwise };
    io.run(run, case, |io, y| b.mul_into(Mul { io, y: y[0] }.check()?), |t| b.mul(t[0], t[1]))
}
