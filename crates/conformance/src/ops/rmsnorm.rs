//! Cases of [`RmsNorm`].

use backend_api::ops::RmsNorm;
use backend_api::{DType, KernelBackend, Op};

use crate::case::{Case, IoCase, Run, Types};
use crate::host::{Host, largest};
use crate::tolerance::{Judge, U, Want, gamma};
use crate::{Failure, Group, Report, ops::huge, shapes};

/// `x · weight / √(mean(x²) + eps)` of one row.
pub fn row(x: &[f64], weight: &[f64], eps: f32) -> Vec<Want> {
    let eps = f64::from(eps);
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    let share = if mean > 0.0 { mean / (mean + eps) } else { 0.0 };
    let error = gamma(x.len() + 1) * share / 2.0 + 6.0 * U;
    let scale = 1.0 / (mean + eps).sqrt();
    x.iter().zip(weight).map(|(v, w)| Want::relative(v * scale * w, error)).collect()
}

/// [`row`] of every row.
pub fn reference(x: &Host, weight: &Host, eps: f32) -> Vec<Want> {
    (0..x.rows).flat_map(|r| row(x.row(r), &weight.data, eps)).collect()
}

/// Runs the cases.
///
/// # Errors
/// The first that fails.
pub fn run<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, Failure> {
    let mut run = Run::new(backend, "rmsnorm", group).issued(|w, t| Types { x: DType::F32, w, out: t });
    if group == Group::Huge {
        huge::rmsnorm(&mut run)?;
        return Ok(run.report());
    }
    for (types, shape) in run.grid(shapes::QUICK, shapes::FULL) {
        let every: &[f32] = if group == Group::Full { &[1e-5, 0.5, 0.0] } else { &[0.5] };
        for eps in every.iter().copied() {
            let case = Case::new(types, format_args!("{} x {}, eps {eps}", shape.0, shape.1));
            let x = Host::random(case.seed, shape, types.x, 2.0);
            if eps != 0.0 || x.cols != 1 {
                check(&mut run, &case, types, &x, eps)?;
            }
        }
    }
    for types in run.required() {
        // Squares, and their sum, stay within f32.
        let large = largest(types.x).min(1e18);
        let small = if types.x == DType::F16 { 2e-7 } else { 1e-12 };
        let rows = [0.0, large, small, -large, 1.0, f64::NAN, 0.01];
        let x = Host::from_fn((rows.len(), 67), types.x, |r, c| {
            rows[r] * (1.0 - 0.01 * (c % 7) as f64) * if c % 3 == 0 { -1.0 } else { 1.0 }
        });
        for eps in [1e-5, 1e-6] {
            check(&mut run, &Case::new(types, format_args!("special rows, eps {eps}")), types, &x, eps)?;
        }
    }
    Ok(run.report())
}

fn check<B: KernelBackend>(
    run: &mut Run<'_, B>,
    case: &Case,
    types: Types,
    x: &Host,
    eps: f32,
) -> Result<(), Failure> {
    let b = run.backend;
    let weight = Host::random(case.seed + 1, (1, x.cols), types.w, 1.5);
    let want = reference(x, &weight, eps);
    let io = IoCase { x, out: types.out, others: &[&weight], want: &want, judge: Judge::Reduction };
    io.run(
        run,
        case,
        |io, w| b.rmsnorm_into(RmsNorm { io, weight: w[0], eps }.check()?),
        |t| b.rmsnorm(t[0], t[1], eps),
    )
}
