//! Cases of [`Embed`].

use backend_api::ops::Embed;
use backend_api::random::philox;
use backend_api::{DType, KernelBackend, Op};

use crate::case::{Case, Place, Run, Slot, Types, check_tensor};
use crate::host::Host;
use crate::ops::{add::specials, huge};
use crate::tolerance::{Judge, Want};
use crate::{Failure, Group, Report, shapes};

/// Rows of the table; NaN for ids outside it.
pub fn reference(table: &Host, ids: &[u32]) -> Vec<Want> {
    let row = |id: &u32| {
        let inside = (*id as usize) < table.rows;
        let row = if inside { table.row(*id as usize).to_vec() } else { vec![f64::NAN; table.cols] };
        row.into_iter().map(Want::exact)
    };
    ids.iter().flat_map(row).collect()
}

/// Runs the cases.
///
/// # Errors
/// The first that fails.
pub fn run<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, Failure> {
    let mut run = Run::new(backend, "embed", group).issued(|w, _| Types { x: w, w, out: DType::F32 });
    if group == Group::Huge {
        huge::embed(&mut run)?;
        return Ok(run.report());
    }
    for (types, (rows, cols)) in run.grid(shapes::QUICK, shapes::FULL) {
        for vocab in [0, 1, 37] {
            let types = Types { w: types.x, ..types };
            let case = Case::new(types, format_args!("{rows} ids of {vocab} x {cols}"));
            let table = Host::random(case.seed, (vocab, cols), types.x, 2.0);
            let draw = |i: usize| philox(case.seed, i as u64)[0] % (vocab.max(1) as u32);
            let id = |i: usize| match i % 7 {
                3 => vocab as u32,
                5 => u32::MAX,
                6 => (vocab as u32).saturating_sub(1),
                _ => draw(i),
            };
            check(&mut run, &case, types, &table, &(0..rows).map(id).collect::<Vec<_>>())?;
        }
    }
    for types in run.required() {
        let values = specials(types.x);
        let table = Host::from_fn((3, values.len()), types.x, |r, c| values[(r + c) % values.len()]);
        check(&mut run, &Case::new(types, "special values"), types, &table, &[2, 0, 1, 2])?;
    }
    Ok(run.report())
}

fn check<B: KernelBackend>(
    run: &mut Run<'_, B>,
    case: &Case,
    types: Types,
    table: &Host,
    ids: &[u32],
) -> Result<(), Failure> {
    let want = reference(table, ids);
    for place in run.places() {
        run.case(case, &format!("into, {place:?}"), |b| {
            let table = Slot::new(b, table, *place)?;
            let index = Slot::new(b, &Host::index(ids), *place)?;
            let mut out = Slot::blank(b, (ids.len(), table.mat()?.n_cols()), types.out, *place)?;
            let op = Embed { table: table.mat()?, ids: index.mat()?, out: out.mat_mut()? };
            b.embed_into(op.check()?)?;
            out.check(b, "out", &want, Judge::Bits)
        })?;
    }
    if types.mixed() {
        return Ok(());
    }
    run.case(case, "returning", |b| {
        let index = Slot::new(b, &Host::index(ids), Place::WHOLE)?;
        let out = b.embed(&Slot::new(b, table, Place::WHOLE)?.tensor, &index.tensor)?;
        check_tensor(b, &out, (&[ids.len(), table.cols], types.x), &want, Judge::Bits)
    })
}
