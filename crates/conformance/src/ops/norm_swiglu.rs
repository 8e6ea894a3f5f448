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
    Ok(run.report())
}

fn check<B: KernelBackend>(
    run: &mut Run<'_, B>,
    places: &[Place],
    types: Types,
    (rows, hidden, ffn): (usize, usize, usize),
) -> Result<(), Failure> {
    let case = Case::new(types, format_args!("{rows} x {hidden}, intermediate {ffn}"));
    let eps = 1e-2;
    let x = Host::random(case.seed, (rows, hidden), types.x, 2.0);
    let norm = Host::random(case.seed + 1, (1, hidden), types.w, 1.5);
    let w = Host::random(case.seed + 2, (2 * ffn, hidden), types.w, 3.0 / (hidden as f32).sqrt());
    let want = reference(&x, &norm, eps, &w, (types.out, types.out));
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
