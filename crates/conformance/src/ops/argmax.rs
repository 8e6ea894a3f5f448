//! Cases of [`Argmax`].

use backend_api::ops::{Argmax, NO_ID};
use backend_api::{DType, KernelBackend, Op};

use crate::case::{Case, Place, Run, Slot, check_tensor};
use crate::host::Host;
use crate::tolerance::{Judge, Want};
use crate::{Failure, Group, Report, ops::huge, shapes};

/// The lowest index of the largest value; [`NO_ID`] for a row that has a NaN or no element.
pub fn row(logits: &[f64]) -> u32 {
    if logits.is_empty() || logits.iter().any(|v| v.is_nan()) {
        return NO_ID;
    }
    let best = (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
    best as u32
}

/// [`row`] of every row.
pub fn reference(logits: &Host) -> Vec<u32> {
    (0..logits.rows).map(|r| row(logits.row(r))).collect()
}

/// Runs the cases.
///
/// # Errors
/// The first that fails.
pub fn run<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, Failure> {
    let mut run = Run::new(backend, "argmax", group);
    if group == Group::Huge {
        huge::argmax(&mut run)?;
        return Ok(run.report());
    }
    for (types, shape) in run.grid(shapes::QUICK, shapes::FULL) {
        if types.mixed() {
            continue;
        }
        let case = Case::new(types, format_args!("{} x {}", shape.0, shape.1));
        check(&mut run, &case, &Host::random(case.seed, shape, types.x, 9.0))?;
        // Few distinct values: ties everywhere.
        let case = Case::new(types, format_args!("{} x {}, ties", shape.0, shape.1));
        let coarse = Host::random(case.seed, shape, types.x, 3.0);
        check(&mut run, &case, &Host::from_fn(shape, types.x, |r, c| coarse.at(r, c).trunc()))?;
    }
    let vocabs: &[usize] = if group == Group::Full { &[4, 33, 257, 1025, 128_256] } else { &[4, 33, 4099] };
    for types in run.required() {
        for cols in vocabs.iter().copied() {
            let (inf, nan) = (f64::INFINITY, f64::NAN);
            let last = cols - 1;
            let logits = Host::from_fn((11, cols), types.x, |r, c| match (r, c) {
                (0, _) => -inf,
                (1, _) => 0.0,
                (2, c) if c == last => nan,
                (3, 0) => nan,
                (4, c) if c == last => inf,
                (5, c) if c > 0 => inf,
                (6, c) => {
                    if c % 2 == 0 {
                        -0.0
                    } else {
                        0.0
                    }
                }
                (7, c) if c == last || c == last - 1 => 2.5,
                (8, c) => -1.0 - c as f64,
                (9, c) => {
                    if c == last {
                        -1.0
                    } else {
                        -inf
                    }
                }
                (10, c) => [nan, inf][c % 2],
                _ => 1.0,
            });
            check(&mut run, &Case::new(types, format_args!("special rows of {cols}")), &logits)?;
        }
    }
    Ok(run.report())
}

fn check<B: KernelBackend>(run: &mut Run<'_, B>, case: &Case, logits: &Host) -> Result<(), Failure> {
    let ids = reference(logits);
    let want: Vec<Want> = ids.iter().map(|id| Want::exact(f64::from(*id))).collect();
    let before: Vec<u32> = (0..logits.rows as u32).map(|r| r * 7 + 1).collect();
    let after: Vec<Want> = before.iter().map(|p| Want::exact(f64::from(p + 1))).collect();
    for (n, advance) in [false, true].into_iter().enumerate() {
        for place in run.places_of(n) {
            run.case(case, &format!("position {advance}, {place:?}"), |b| {
                let logits_slot = Slot::new(b, logits, *place)?;
                let mut id = Slot::blank(b, (1, logits.rows), DType::U32, *place)?;
                let mut position = Slot::new(b, &Host::index(&before), *place)?;
                let advanced = if advance { Some(position.mat_mut()?) } else { None };
                let op = Argmax { logits: logits_slot.mat()?, id: id.mat_mut()?, position: advanced };
                b.argmax_into(op.check()?)?;
                id.check(b, "id", &want, Judge::Bits)?;
                if advance { position.check(b, "position", &after, Judge::Bits) } else { Ok(()) }
            })?;
        }
    }
    run.case(case, "returning", |b| {
        let id = b.argmax(&Slot::new(b, logits, Place::WHOLE)?.tensor)?;
        check_tensor(b, &id, (&[logits.rows], DType::U32), &want, Judge::Bits)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_follows_the_definition() {
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        assert_eq!(row(&[1.0, 3.0, 2.0]), 1);
        assert_eq!(row(&[3.0, 1.0, 3.0]), 0);
        assert_eq!(row(&[-0.0, 0.0]), 0);
        assert_eq!(row(&[-inf, -inf]), 0);
        assert_eq!(row(&[0.0, inf, inf]), 1);
        assert_eq!(row(&[0.0, 5.0, nan]), NO_ID);
        assert_eq!(row(&[]), NO_ID);
    }
}
