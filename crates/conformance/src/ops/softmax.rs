//! Cases of [`Softmax`].

use backend_api::ops::Softmax;
use backend_api::{KernelBackend, Op};

use crate::case::{Case, IoCase, Run, Types};
use crate::host::{Host, largest};
use crate::tolerance::{Judge, U, Want, exp, gamma};
use crate::{Failure, Group, Report, ops::huge, shapes};

/// `exp(x − max x) / Σ exp(x − max x)` of one row; NaN for −∞ alone and for a row with a NaN or +∞.
pub fn row(x: &[f64]) -> Vec<Want> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if x.iter().any(|v| v.is_nan()) || !max.is_finite() {
        return vec![Want::exact(f64::NAN); x.len()];
    }
    let powers: Vec<f64> = x.iter().map(|v| (v - max).exp()).collect();
    let sum: f64 = powers.iter().sum();
    let weighted = |(p, v): (&f64, &f64)| if *p == 0.0 { 0.0 } else { p * power_error(v - max) };
    let of_sum = powers.iter().zip(x).map(weighted).sum::<f64>() / sum + gamma(x.len());
    let want = |(p, v): (&f64, &f64)| match *p {
        0.0 => Want::exact(0.0),
        p => Want::relative(p / sum, power_error(v - max) + of_sum + 3.0 * U),
    };
    powers.iter().zip(x).map(want).collect()
}

/// Relative error of `exp(d)` where `d` is a rounded difference.
fn power_error(d: f64) -> f64 {
    exp(d) + d.abs() * U
}

/// [`row`] of every row.
pub fn reference(x: &Host) -> Vec<Want> {
    (0..x.rows).flat_map(|r| row(x.row(r))).collect()
}

/// Runs the cases.
///
/// # Errors
/// The first that fails.
pub fn run<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, Failure> {
    let mut run = Run::new(backend, "softmax", group);
    if group == Group::Huge {
        huge::softmax(&mut run)?;
        return Ok(run.report());
    }
    for (types, shape) in run.grid(shapes::QUICK, shapes::FULL) {
        let case = Case::new(types, format_args!("{} x {}", shape.0, shape.1));
        check(&mut run, &case, types, &Host::random(case.seed, shape, types.x, 6.0))?;
    }
    for types in run.required() {
        let large = largest(types.x);
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        for cols in [4, 33, 257] {
            let rows: [&[f64]; 12] = [
                &[-inf],
                &[-inf, -inf, -inf, 1.5],
                &[1.0, 2.0, -inf],
                &[0.25, nan, 1.0],
                &[1.0, 0.5, 1.0, inf],
                &[-inf, inf],
                &[nan, -inf],
                &[large, -large, 0.0],
                &[large],
                &[-large],
                &[80.0, -80.0, 79.0],
                &[0.0],
            ];
            let x = Host::from_fn((rows.len(), cols), types.x, |r, c| rows[r][c % rows[r].len()]);
            check(&mut run, &Case::new(types, format_args!("special rows of {cols}")), types, &x)?;
            let last = Host::from_fn((5, cols), types.x, |r, c| match (r, c + 1 == cols) {
                (0, true) => nan,
                (1, true) => inf,
                (2, true) => 9.0,
                (3, false) => -inf,
                _ => 0.5,
            });
            check(&mut run, &Case::new(types, format_args!("special last of {cols}")), types, &last)?;
        }
    }
    Ok(run.report())
}

fn check<B: KernelBackend>(run: &mut Run<'_, B>, case: &Case, types: Types, x: &Host) -> Result<(), Failure> {
    let b = run.backend;
    let io = IoCase { x, out: types.out, others: &[], want: &reference(x), judge: Judge::Reduction };
    io.run(run, case, |io, _| b.softmax_into(Softmax { io }.check()?), |t| b.softmax(t[0]))
}
