//! Cases of [`ApplyRope`].

use backend_api::ops::ApplyRope;
use backend_api::{At, DType, KernelBackend, Op};

use crate::case::{Case, IoCase, Run, Types};
use crate::host::Host;
use crate::tolerance::{Judge, Want};
use crate::{Failure, Group, Report, ops::huge, shapes};

/// One row at `position`, of heads of `2 · cos.cols` elements; NaN if the tables do not reach that far.
pub fn row(x: &[f64], cos: &Host, sin: &Host, position: usize) -> Vec<Want> {
    let half = cos.cols;
    let element = |i: usize| {
        if position >= cos.rows {
            return Want::exact(f64::NAN);
        }
        let (lane, second) = (i % half, i % (2 * half) >= half);
        let (c, s) = (cos.at(position, lane), sin.at(position, lane));
        let (a, b) = if second { (x[i] * c, x[i - half] * s) } else { (x[i] * c, -x[i + half] * s) };
        Want::sum(a + b, 2, a.abs() + b.abs())
    };
    (0..x.len()).map(element).collect()
}

/// [`row`] of every row.
pub fn reference(x: &Host, cos: &Host, sin: &Host, positions: &[u32]) -> Vec<Want> {
    (0..x.rows).flat_map(|r| row(x.row(r), cos, sin, positions[r] as usize)).collect()
}

/// Positions of the rows, and the first one where they follow each other.
pub(crate) type Positions = (Vec<u32>, Option<usize>);

/// `rows` positions from `first` on.
pub(crate) fn consecutive(first: usize, rows: usize) -> Positions {
    ((first..first + rows).map(|p| p as u32).collect(), Some(first))
}

/// Positions in no order, some of them at the end of a table of `len` rows and beyond.
pub(crate) fn scattered(seed: u64, rows: usize, len: usize) -> Positions {
    let draw = |r: usize| backend_api::random::philox(seed ^ 0x705, r as u64)[0];
    let position = |r: usize| match r % 5 {
        1 => u32::MAX,
        2 => len as u32,
        3 => (len as u32).saturating_sub(1),
        _ => draw(r) % (len as u32).max(1),
    };
    ((0..rows).map(position).collect(), None)
}

/// Runs the cases.
///
/// # Errors
/// The first that fails.
pub fn run<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, Failure> {
    let mut run = Run::new(backend, "apply_rope", group);
    if group == Group::Huge {
        huge::apply_rope(&mut run)?;
        return Ok(run.report());
    }
    // Rows, positions of the tables.
    let (quick, full) = (&[(0, 4), (1, 1), (5, 9)], &[(1, 700), (33, 40), (130, 131), (3, 0)]);
    for (types, (rows, len)) in run.grid(quick, full) {
        let extra: &[_] = if group == Group::Full && !types.mixed() { shapes::FULL_HEADS } else { &[] };
        for (heads, _, dim) in shapes::QUICK_HEADS.iter().chain(extra) {
            let shape = (rows, heads * dim, *dim, len);
            check(&mut run, types, shape, &consecutive(len.saturating_sub(rows), rows), "last positions")?;
            check(&mut run, types, shape, &consecutive(len.saturating_sub(rows) + 1, rows), "beyond by one")?;
            check(&mut run, types, shape, &scattered(len as u64, rows, len), "scattered")?;
        }
    }
    if group == Group::Full {
        for types in run.required() {
            check(&mut run, types, (65_537, 4, 4, 70_000), &consecutive(11, 65_537), "many rows")?;
        }
    }
    Ok(run.report())
}

fn check<B: KernelBackend>(
    run: &mut Run<'_, B>,
    types: Types,
    (rows, cols, head_dim, len): (usize, usize, usize, usize),
    (positions, first): &Positions,
    name: &str,
) -> Result<(), Failure> {
    let types = Types { w: types.x, ..types };
    let case = Case::new(types, format_args!("{rows} x {cols}, head_dim {head_dim}, tables {len}, {name}"));
    let x = Host::random(case.seed, (rows, cols), types.x, 2.0);
    let cos = Host::random(case.seed + 1, (len, head_dim / 2), DType::F32, 1.0);
    let sin = Host::random(case.seed + 2, (len, head_dim / 2), DType::F32, 1.0);
    let want = reference(&x, &cos, &sin, positions);
    let index = Host::index(positions);
    let judge = Judge::Elementwise;
    let io = IoCase { x: &x, out: types.out, others: &[&cos, &sin, &index], want: &want, judge };
    let b = run.backend;
    for first in run.firsts(*first) {
        io.run(
            run,
            &case,
            |io, t| {
                let at = At { positions: t[2], first, distinct: false };
                b.apply_rope_into(ApplyRope { io, cos: t[0], sin: t[1], at, head_dim }.check()?)
            },
            |t| b.apply_rope(t[0], t[1], t[2], t[3], head_dim),
        )?;
    }
    Ok(())
}
