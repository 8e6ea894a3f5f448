//! Cases of [`WeightedSumRows`].

use backend_api::ops::WeightedSumRows;
use backend_api::{Heads, KernelBackend, Op};

use crate::case::{Case, Place, Run, Slot, Types, check_tensor};
use crate::host::Host;
use crate::tolerance::{Judge, Want};
use crate::{Failure, Group, Report, ops::huge, shapes};

/// `Σ_j weights[i·n_heads + h, j] · rows[j, (h / group)·cols + c]`; zero for no rows.
pub fn reference(weights: &Host, rows: &Host, heads: Heads) -> Vec<Want> {
    let mut want = Vec::with_capacity(weights.rows * heads.head_dim);
    for i in 0..weights.rows {
        let from = i % heads.n_heads / heads.group() * heads.head_dim;
        let mut sums = vec![(0.0, 0.0); heads.head_dim];
        for (j, weight) in weights.row(i).iter().enumerate() {
            for (sum, value) in sums.iter_mut().zip(&rows.row(j)[from..]) {
                let product = weight * value;
                *sum = (sum.0 + product, sum.1 + f64::abs(product));
            }
        }
        want.extend(sums.iter().map(|(sum, magnitude)| Want::sum(*sum, weights.cols, *magnitude)));
    }
    want
}

/// Runs the cases.
///
/// # Errors
/// The first that fails.
pub fn run<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, Failure> {
    let mut run = Run::new(backend, "weighted_sum_rows", group);
    if group == Group::Huge {
        huge::weighted_sum_rows(&mut run)?;
        return Ok(run.report());
    }
    // m, n, columns.
    let quick = &[(0, 3, 8), (1, 0, 8), (1, 1, 1), (1, 33, 64), (3, 257, 40), (2, 5, 0), (5, 31, 96)];
    let full = &[
        (1, 1, 64),
        (1, 32, 80),
        (1, 255, 128),
        (1, 256, 256),
        (1, 1025, 64),
        (1, 4099, 128),
        (8, 8, 80),
        (33, 31, 96),
        (130, 131, 128),
        (65, 1023, 40),
        (2, 65_537, 4),
        (65_537, 2, 4),
        (2, 3, 4099),
    ];
    for (types, (m, n, cols)) in run.grid(quick, full) {
        check(&mut run, types, (Heads::single(cols), m, n))?;
    }
    for (types, shape) in run.grid(shapes::QUICK_GROUPS, shapes::FULL_GROUPS) {
        check(&mut run, types, shape)?;
    }
    Ok(run.report())
}

fn check<B: KernelBackend>(
    run: &mut Run<'_, B>,
    types: Types,
    (heads, m, n): (Heads, usize, usize),
) -> Result<(), Failure> {
    let Heads { n_heads, n_kv_heads, head_dim: cols } = heads;
    let case = Case::new(types, format_args!("{m} x {n}, {n_heads}:{n_kv_heads} heads of {cols}"));
    let weights = Host::random(case.seed, (m * n_heads, n), types.x, 1.0);
    let rows = Host::random(case.seed + 1, (n, heads.kv_dim()), types.w, 2.0);
    let want = reference(&weights, &rows, heads);
    for place in run.places() {
        run.case(&case, &format!("into, {place:?}"), |b| {
            let (weights, rows) = (Slot::new(b, &weights, *place)?, Slot::new(b, &rows, *place)?);
            let mut out = Slot::blank(b, (m, heads.q_dim()), types.out, *place)?;
            let op =
                WeightedSumRows { weights: weights.mat()?, rows: rows.mat()?, heads, out: out.mat_mut()? };
            b.weighted_sum_rows_into(op.check()?)?;
            out.check(b, "out", &want, Judge::Reduction)
        })?;
    }
    if types.x != types.out || n_heads != 1 {
        return Ok(());
    }
    run.case(&case, "returning", |b| {
        let (weights, rows) = (Slot::new(b, &weights, Place::WHOLE)?, Slot::new(b, &rows, Place::WHOLE)?);
        let out = b.weighted_sum_rows(&weights.tensor, &rows.tensor)?;
        check_tensor(b, &out, (&[m, cols], types.out), &want, Judge::Reduction)
    })
}
