//! Cases of [`NormSwiglu`].

use backend_api::ops::NormSwiglu;
use backend_api::{DType, KernelBackend, Op};

use crate::case::{Case, Place, Run, Slot, Types};
use crate::host::Host;
use crate::ops::{matmul::dot, rmsnorm, silu::silu};
use crate::tolerance::{Judge, U, Want};
use crate::{Failure, Group, Report};

/// A row of `rmsnorm(x)·wᵀ`, with the norm stored in `scratch` and the products in `out`.
pub fn norm_product(
    x: &[f64],
    norm: &[f64],
    eps: f32,
    w: &Host,
    (scratch, out): (DType, DType),
) -> Vec<Want> {
    let h: Vec<Want> = rmsnorm::row(x, norm, eps).into_iter().map(|h| h.stored(scratch)).collect();
    let (values, errors): (Vec<f64>, Vec<f64>) = h.iter().map(|h| (h.value, h.error)).unzip();
    let product = |w: &[f64]| {
        let (sum, magnitude) = dot(&values, w);
        let carried: f64 = errors.iter().zip(w).map(|(error, w)| error * w.abs()).sum();
        let want = Want::sum(sum, w.len(), magnitude);
        Want { error: want.error + carried, ..want }.stored(out)
    };
    (0..w.rows).map(|j| product(w.row(j))).collect()
}

/// `silu(gate)·up` of one element, `silu(gate)` stored in `dtype`.
fn gated(gate: Want, up: Want, dtype: DType) -> Want {
    // The slope of silu nowhere exceeds 1.1.
    let own = silu(gate.value);
    let activated = Want { value: own.value, error: own.error + 1.1 * gate.error }.stored(dtype);
    let value = activated.value * up.value;
    let carried = activated.error * (up.value.abs() + up.error) + activated.value.abs() * up.error;
    Want { value, error: carried }.plus(U * value.abs())
}

/// All rows.
pub fn reference(x: &Host, norm: &Host, eps: f32, w: &Host, types: (DType, DType)) -> Vec<Want> {
    let ffn = w.rows / 2;
    let row = |r: usize| {
        let y = norm_product(x.row(r), &norm.data, eps, w, types);
        (0..ffn).map(|i| gated(y[i], y[ffn + i], types.1)).collect::<Vec<_>>()
    };
    (0..x.rows).flat_map(row).collect()
}

/// Shapes at which what streams weights past one row goes round its loops, for an f32 row beside weights of every type: rows
/// that one, two and four warps share, of whole rounds and not, and the longest that kernels take; and a prompt whose product
/// takes each slot of a ring many times.
const LONG: &[(usize, usize, usize)] =
    &[(1, 2040, 131), (1, 4096, 301), (1, 5000, 133), (1, 8192, 64), (1, 24_576, 9), (300, 4096, 300)];

/// As many tiles of 256 rows by 112 outputs as 66 clusters of blocks, those of an H200, compute in two turns without a rest: a
/// product beside which cuBLAS is not asked, and whose second tiles find the ring where the first have left it.
const TILES: &[(usize, usize, usize)] = &[(512, 328, 7392)];

/// Runs the cases.
///
/// # Errors
/// The first that fails.
pub fn run<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, Failure> {
    let mut run = Run::new(backend, "norm_swiglu", group).issued(|w, t| Types { x: DType::F32, w, out: t });
    // Rows, hidden_size, intermediate_size.
    let quick = &[(0, 8, 3), (1, 32, 17), (1, 257, 33), (5, 33, 40), (2, 64, 0), (9, 128, 31)];
    let full = &[
        (1, 1, 1),
        (1, 256, 704),
        (1, 1024, 67),
        (2, 1025, 32),
        (8, 255, 129),
        (33, 96, 257),
        (64, 129, 64),
        (130, 256, 33),
        (130, 72, 8500),
        (1, 4099, 5),
    ];
    for (types, shape) in run.grid(quick, full) {
        let places = run.places();
        check(&mut run, places, types, shape)?;
    }
    // As many rows as the first kernel for prompts takes, which is one for types of 16 bits.
    let halves = run.grid(if group == Group::Quick { &[(130, 72, 40)] } else { &[] }, &[]);
    for (types, shape) in halves.into_iter().filter(|(types, _)| types.w != DType::F32) {
        let places = run.places_of(0);
        check(&mut run, places, types, shape)?;
    }
    let (long, tiles) = if group == Group::Full { (LONG, TILES) } else { (&[][..], &[][..]) };
    let long = run.grid(long, &[]).into_iter().filter(|(types, _)| types.is_residual());
    let tiles = run.grid(tiles, &[]).into_iter().filter(|(t, _)| t.is_residual() && t.out != DType::F32);
    for (types, shape) in long.chain(tiles) {
        let places = &run.places()[..1];
        check(&mut run, places, types, shape)?;
    }
    Ok(run.report())
}

/// Rows of `x`, gates and ups that differ, which the others repeat: the reference of a large case is that of a small one. A
/// prime, so that neighbouring tiles differ.
const DISTINCT: usize = 61;

/// Row `i` of the result is row `of_row(i)` of `few`.
fn repeated(few: &Host, rows: usize, of_row: impl Fn(usize) -> usize) -> Host {
    Host { rows, data: (0..rows).flat_map(|i| few.row(of_row(i)).iter().copied()).collect(), ..*few }
}

fn check<B: KernelBackend>(
    run: &mut Run<'_, B>,
    places: &[Place],
    types: Types,
    (rows, hidden, ffn): (usize, usize, usize),
) -> Result<(), Failure> {
    let case = Case::new(types, format_args!("{rows} x {hidden}, intermediate {ffn}"));
    let (eps, tokens, outputs) = (1e-2, rows.min(DISTINCT), ffn.min(DISTINCT));
    let x = Host::random(case.seed, (tokens, hidden), types.x, 2.0);
    let norm = Host::random(case.seed + 1, (1, hidden), types.w, 1.5);
    let w = Host::random(case.seed + 2, (2 * outputs, hidden), types.w, 3.0 / (hidden as f32).sqrt());
    let few = reference(&x, &norm, eps, &w, (types.out, types.out));
    let want: Vec<Want> = (0..rows)
        .flat_map(|i| (0..ffn).map(move |j| i % DISTINCT * outputs + j % DISTINCT))
        .map(|at| few[at])
        .collect();
    let x = repeated(&x, rows, |i| i % DISTINCT);
    let w = repeated(&w, 2 * ffn, |j| j % ffn % DISTINCT + j / ffn * outputs);
    for place in places {
        run.case(&case, &format!("{place:?}"), |b| {
            let (x, norm) = (Slot::new(b, &x, *place)?, Slot::new(b, &norm, *place)?);
            let w = Slot::new(b, &w, *place)?;
            let mut out = Slot::blank(b, (rows, ffn), types.out, *place)?;
            let mut scratch = Slot::blank(b, (rows, hidden), types.out, *place)?;
            let mut gate_up = Slot::blank(b, (rows, 2 * ffn), types.out, *place)?;
            let op = NormSwiglu {
                x: x.mat()?,
                norm: norm.mat()?,
                eps,
                w: w.mat()?,
                out: out.mat_mut()?,
                scratch: scratch.mat_mut()?,
                gate_up: gate_up.mat_mut()?,
            };
            b.norm_swiglu(op.check()?)?;
            scratch.surroundings(b, "scratch")?;
            gate_up.surroundings(b, "gate_up")?;
            out.check(b, "out", &want, Judge::Fused(types.out))
        })?;
    }
    Ok(())
}
