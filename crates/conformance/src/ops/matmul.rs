//! Cases of [`Matmul`].

use backend_api::ops::{Matmul, WeightLayout};
use backend_api::{DType, KernelBackend, Op};

use crate::case::{Case, Place, Run, Slot, Types, check_tensor};
use crate::host::Host;
use crate::tolerance::{Judge, Want};
use crate::{Failure, Group, Report, ops::huge};

/// `Σ a·b` and `Σ |a·b|`.
pub fn dot(a: &[f64], b: &[f64]) -> (f64, f64) {
    a.iter().zip(b).fold((0.0, 0.0), |(sum, magnitude), (a, b)| {
        let product = a * b;
        (sum + product, magnitude + product.abs())
    })
}

/// `x·wᵀ` with `w` as `[n, k]`, added to `old` if given.
pub fn reference(x: &Host, w: &Host, old: Option<&Host>) -> Vec<Want> {
    let element = |i: usize, j: usize| {
        let (sum, magnitude) = dot(x.row(i), w.row(j));
        match old.map(|old| old.at(i, j)) {
            Some(old) => Want::sum(sum + old, x.cols + 1, magnitude + old.abs()),
            None => Want::sum(sum, x.cols, magnitude),
        }
    };
    (0..x.rows).flat_map(|i| (0..w.rows).map(move |j| element(i, j))).collect()
}

/// A token's products with the sides of Mistral-7B, into f32 as a decoder asks for them: rows of weights that are streamed in
/// several rounds. And the longest rows that kernels take of 32 and of 16 bits.
const VECTOR: &[(usize, usize, usize)] =
    &[(1, 2040, 67), (1, 4096, 301), (1, 14_336, 37), (1, 24_576, 9), (1, 49_152, 5)];

/// Runs the cases.
///
/// # Errors
/// The first that fails.
pub fn run<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, Failure> {
    let mut run = Run::new(backend, "matmul", group).issued(|w, t| Types { x: t, w, out: DType::F32 });
    if group == Group::Huge {
        huge::matmul(&mut run)?;
        return Ok(run.report());
    }
    // m, k, n.
    let quick =
        [(0, 5, 3), (1, 1, 1), (1, 257, 33), (2, 0, 3), (3, 33, 0), (5, 31, 17), (9, 64, 40), (33, 129, 7)];
    let rows: &[usize] = if group == Group::Full { &[0, 1, 2, 3, 5, 8, 9, 17, 33, 64, 130] } else { &[] };
    let sides = [
        (1, 31),
        (31, 1),
        (32, 32),
        (33, 129),
        (129, 33),
        (256, 64),
        (255, 67),
        (1025, 7),
        (61, 257),
        (4099, 3),
        (3, 1023),
    ];
    let full: Vec<_> = rows.iter().flat_map(|m| sides.map(|(k, n)| (*m, k, n))).collect();
    for (types, (m, k, n)) in run.grid(&quick, &full) {
        let case = Case::new(types, format_args!("{m} x {k} x {n}"));
        let places = run.places();
        check(&mut run, places, &case, types, (m, k, n))?;
    }
    // In full: tiles that blocks share, more of them than blocks, too, and columns that few or many lanes of a warp take. In the
    // quick group, weights that are streamed past a row, and tiles that blocks share.
    let long: &[_] = match group {
        Group::Full => &[
            (1, 14_336, 5),
            (2, 32_003, 3),
            (1, 67, 32_003),
            (130, 1_032, 520),
            (17, 4_096, 264),
            (1290, 40, 1301),
            (9, 224, 55_296),
            (1, 70, 4097),
            (8, 70, 4097),
            (1, 70, 12_801),
            (1, 40, 50_689),
        ],
        Group::Quick => &[(1, 64, 33), (1, 4_104, 9), (9, 520, 24), (70, 257, 7)],
        Group::Huge => &[],
    };
    for (types, shape) in run.required().iter().flat_map(|t| long.iter().map(move |s| (*t, *s))) {
        if group == Group::Quick && types.w == DType::F32 && shape.0 > 1 {
            continue;
        }
        let places = run.places_of(0);
        check(&mut run, places, &Case::new(types, format_args!("{shape:?}")), types, shape)?;
    }
    let vector = if group == Group::Full { VECTOR } else { &[] };
    for (types, shape) in run.grid(vector, &[]).into_iter().filter(|(types, _)| types.out == DType::F32) {
        let places = &run.places()[..1];
        check(&mut run, places, &Case::new(types, format_args!("{shape:?}")), types, shape)?;
    }
    Ok(run.report())
}

fn check<B: KernelBackend>(
    run: &mut Run<'_, B>,
    places: &[Place],
    case: &Case,
    types: Types,
    (m, k, n): (usize, usize, usize),
) -> Result<(), Failure> {
    let x = Host::random(case.seed, (m, k), types.x, 1.5);
    let w = Host::random(case.seed + 1, (n, k), types.w, 1.0);
    let old = Host::random(case.seed + 2, (m, n), types.out, 4.0);
    let turned = Host::from_fn((k, n), types.w, |r, c| w.at(c, r));
    let (fresh, added) = (reference(&x, &w, None), reference(&x, &w, Some(&old)));
    for place in places {
        for (layout, weights) in [(WeightLayout::OutIn, &w), (WeightLayout::InOut, &turned)] {
            for accumulate in [false, true] {
                let want = if accumulate { &added } else { &fresh };
                run.case(case, &format!("{layout:?}, accumulate {accumulate}, {place:?}"), |b| {
                    let (x, w) = (Slot::new(b, &x, *place)?, Slot::new(b, weights, *place)?);
                    let mut out = if accumulate {
                        Slot::new(b, &old, *place)?
                    } else {
                        Slot::blank(b, (m, n), types.out, *place)?
                    };
                    let op = Matmul { x: x.mat()?, w: w.mat()?, out: out.mat_mut()?, accumulate, layout };
                    b.matmul_into(op.check()?)?;
                    out.check(b, "out", want, Judge::Reduction)
                })?;
            }
        }
    }
    if types.x != types.out {
        return Ok(());
    }
    run.case(case, "returning", |b| {
        let (x, w) = (Slot::new(b, &x, Place::WHOLE)?, Slot::new(b, &w, Place::WHOLE)?);
        let out = b.matmul(&x.tensor, &w.tensor)?;
        check_tensor(b, &out, (&[m, n], types.out), &fresh, Judge::Reduction)?;
        if m != 1 {
            return Ok(());
        }
        let out = b.matmul_vec(&w.tensor, &x.tensor)?;
        check_tensor(b, &out, (&[n], types.out), &fresh, Judge::Reduction)
    })
}
