//! Cases of [`AppendRows`].

use backend_api::ops::AppendRows;
use backend_api::{At, DType, KernelBackend, Op};

use crate::case::{Case, Place, Run, Slot, Types, compare};
use crate::host::{Host, decode, round};
use crate::ops::apply_rope::{Positions, consecutive, scattered};
use crate::ops::{add::specials, huge};
use crate::report::Step;
use crate::tolerance::{Judge, Want};
use crate::{Failure, Group, Report};

/// `dst` with the rows of `src` written at their positions. Of rows with equal positions, the one whose
/// elements `got` holds is taken.
pub fn reference(src: &Host, dst: &Host, positions: &[u32], got: &[f64]) -> Vec<Want> {
    let mut want = dst.data.clone();
    let mut rows_of = vec![Vec::new(); dst.rows];
    for (row, position) in positions.iter().enumerate() {
        if let Some(rows) = rows_of.get_mut(*position as usize) {
            rows.push(src.row(row).iter().map(|v| round(dst.dtype, *v)).collect::<Vec<_>>());
        }
    }
    for (row, candidates) in rows_of.iter().enumerate() {
        let at = row * dst.cols..(row + 1) * dst.cols;
        let same = |c: &&Vec<f64>| got.get(at.clone()).is_some_and(|g| g == c.as_slice());
        if let Some(chosen) = candidates.iter().find(same).or(candidates.first()) {
            want[at].copy_from_slice(chosen);
        }
    }
    want.into_iter().map(Want::exact).collect()
}

/// Runs the cases.
///
/// # Errors
/// The first that fails.
pub fn run<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, Failure> {
    let mut run = Run::new(backend, "append_rows", group);
    if group == Group::Huge {
        huge::append_rows(&mut run)?;
        return Ok(run.report());
    }
    // Rows, columns, capacity.
    let quick: &[(usize, usize, usize)] =
        &[(0, 5, 3), (1, 1, 1), (1, 33, 9), (5, 64, 8), (3, 0, 4), (4, 7, 0), (7, 257, 5)];
    let full = &[(1, 128, 4096), (33, 1025, 70), (130, 31, 131), (64, 255, 64), (2, 4099, 3)];
    let integers = Types { x: DType::U32, w: DType::U32, out: DType::U32 };
    let of_integers = quick.iter().filter(|_| group != Group::Huge).map(|shape| (integers, *shape));
    for (types, shape) in run.grid(quick, full).into_iter().chain(of_integers) {
        let (rows, _, capacity) = shape;
        let last = capacity.saturating_sub(rows);
        check(&mut run, types, shape, &consecutive(0, rows), "from 0")?;
        check(&mut run, types, shape, &consecutive(last, rows), "to the end")?;
        check(&mut run, types, shape, &consecutive(last + 1, rows), "beyond the end by one")?;
        check(&mut run, types, shape, &scattered(3, rows, capacity), "scattered")?;
        check(&mut run, types, shape, &(vec![capacity as u32 / 2; rows], None), "all to one")?;
    }
    if group == Group::Full {
        for types in run.required() {
            check(&mut run, types, (65_537, 3, 65_600), &consecutive(17, 65_537), "many rows")?;
        }
    }
    Ok(run.report())
}

fn check<B: KernelBackend>(
    run: &mut Run<'_, B>,
    types: Types,
    (rows, cols, capacity): (usize, usize, usize),
    (positions, first): &Positions,
    name: &str,
) -> Result<(), Failure> {
    let types = Types { w: types.x, ..types };
    let case = Case::new(types, format_args!("{rows} x {cols} into {capacity}, {name}"));
    let values = specials(types.x);
    let input = |seed, shape, dtype: DType| match dtype {
        DType::U32 => Host::from_fn(shape, dtype, |r, c| (seed % 97) as f64 + (r * 1000 + c) as f64),
        _ => Host::random(seed, shape, dtype, 2.0),
    };
    let mut src = input(case.seed, (rows, cols), types.x);
    if types.x != DType::U32 {
        // One row of special values; NaN apart, which a copy of a row with the same position cannot be told by.
        src.data.iter_mut().zip(values.iter().filter(|v| !v.is_nan())).for_each(|(s, v)| *s = *v);
    }
    let dst = input(case.seed + 1, (capacity, cols), types.out);
    for first in run.firsts(*first) {
        for place in run.places() {
            run.case(&case, &format!("first {first:?}, {place:?}"), |b| {
                let (src_slot, mut out) = (Slot::new(b, &src, *place)?, Slot::new(b, &dst, *place)?);
                let index = Slot::new(b, &Host::index(positions), *place)?;
                let at = At { positions: index.mat()?, first, distinct: false };
                b.append_rows_into(AppendRows { src: src_slot.mat()?, dst: out.mat_mut()?, at }.check()?)?;
                let got = out.surroundings(b, "dst")?;
                judge(&src, &dst, positions, &got)
            })?;
        }
    }
    run.case(&case, "short form", |b| {
        let (src_slot, mut out) = (Slot::new(b, &src, Place::WHOLE)?, Slot::new(b, &dst, Place::WHOLE)?);
        let index = Slot::new(b, &Host::index(positions), Place::WHOLE)?;
        b.append_rows(&src_slot.tensor, &mut out.tensor, &index.tensor)?;
        let got = decode(types.out, &b.download(&out.tensor)?);
        judge(&src, &dst, positions, &got)
    })
}

fn judge(src: &Host, dst: &Host, positions: &[u32], got: &[f64]) -> Step {
    compare("dst", dst.cols, dst.dtype, got, &reference(src, dst, positions, got), Judge::Bits)
}
