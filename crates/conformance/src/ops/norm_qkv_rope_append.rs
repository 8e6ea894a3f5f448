//! Cases of [`NormQkvRopeAppend`].

use backend_api::ops::NormQkvRopeAppend;
use backend_api::{At, DType, Heads, KernelBackend, Op};

use crate::case::{Case, Place, Run, Slot, Types, compare};
use crate::host::Host;
use crate::ops::apply_rope::{self, Positions, consecutive};
use crate::ops::norm_swiglu::norm_product;
use crate::report::Step;
use crate::tolerance::{Judge, Want};
use crate::{Failure, Group, Report, shapes};

/// Inputs of a case.
struct Inputs {
    heads: Heads,
    eps: f32,
    x: Host,
    norm: Host,
    w: Host,
    cos: Host,
    sin: Host,
    /// What the caches hold before.
    cache: Host,
    positions: Vec<u32>,
}

/// The turned queries of every row, and the caches.
struct Outputs {
    q: Vec<Want>,
    k: Vec<Want>,
    v: Vec<Want>,
}

/// Turns products that are off themselves.
fn turned(y: &[Want], cos: &Host, sin: &Host, position: usize, stored: DType) -> Vec<Want> {
    let part = |of: fn(&Want) -> f64| y.iter().map(of).collect::<Vec<_>>();
    let (values, errors) = (part(|w| w.value), part(|w| w.error));
    let magnitude = |h: &Host| Host { data: h.data.iter().map(|v| v.abs()).collect(), ..h.clone() };
    let turned = apply_rope::row(&values, cos, sin, position);
    if position >= cos.rows {
        return turned;
    }
    let row = |h: &Host| Host { rows: 1, data: h.row(position).to_vec(), ..*h };
    let (cos, sin) = (magnitude(&row(cos)), magnitude(&row(sin)));
    let half = cos.cols;
    let carried = |i: usize| {
        let (lane, second) = (i % half, i % (2 * half) >= half);
        let other = if second { i - half } else { i + half };
        errors[i] * cos.data[lane] + errors[other] * sin.data[lane]
    };
    let want = |(i, t): (usize, &Want)| Want { value: t.value, error: t.error + carried(i) }.stored(stored);
    turned.iter().enumerate().map(want).collect()
}

fn reference(inputs: &Inputs, stored: DType) -> Outputs {
    let Inputs { heads, eps, x, norm, w, cos, sin, cache, positions } = inputs;
    let (q_dim, kv_dim) = (heads.q_dim(), heads.kv_dim());
    let before: Vec<Want> = cache.data.iter().map(|v| Want::exact(*v)).collect();
    let mut out = Outputs { q: Vec::new(), k: before.clone(), v: before };
    for (row, position) in positions.iter().enumerate() {
        let position = *position as usize;
        let y = norm_product(x.row(row), &norm.data, *eps, w, (stored, stored));
        let turned = turned(&y[..q_dim + kv_dim], cos, sin, position, stored);
        out.q.extend_from_slice(&turned[..q_dim]);
        if position < cache.rows {
            let at = position * kv_dim..(position + 1) * kv_dim;
            out.k[at.clone()].copy_from_slice(&turned[q_dim..]);
            out.v[at].copy_from_slice(&y[q_dim + kv_dim..]);
        }
    }
    out
}

/// Heads and hidden_size of a token at which what streams weights past an f32 row goes round its loops: rows that one, two and
/// four warps share, of whole rounds and not, and the longest that kernels take.
const LONG: &[(Heads, usize)] = &[
    (Heads { n_heads: 2, n_kv_heads: 1, head_dim: 20 }, 2040),
    (Heads { n_heads: 2, n_kv_heads: 1, head_dim: 80 }, 4096),
    (Heads { n_heads: 3, n_kv_heads: 1, head_dim: 12 }, 5000),
    (Heads { n_heads: 2, n_kv_heads: 1, head_dim: 16 }, 8192),
    (Heads { n_heads: 1, n_kv_heads: 1, head_dim: 4 }, 24_576),
];

/// Runs the cases.
///
/// # Errors
/// The first that fails.
pub fn run<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, Failure> {
    let mut run =
        Run::new(backend, "norm_qkv_rope_append", group).issued(|w, t| Types { x: DType::F32, w, out: t });
    // Rows, hidden_size, capacity.
    let quick: &[(usize, usize, usize)] = &[(0, 8, 4), (1, 33, 1), (1, 64, 3), (5, 32, 9), (2, 9, 0)];
    let full = &[
        (1, 256, 33),
        (2, 257, 5),
        (3, 255, 64),
        (9, 1025, 40),
        (33, 96, 131),
        (64, 128, 64),
        (130, 65, 140),
    ];
    for (types, shape) in run.grid(quick, full) {
        let more = group == Group::Full && shape == (5, 32, 9) && !types.mixed();
        let extra: &[_] = if more { shapes::FULL_HEADS } else { &[] };
        for (n_heads, n_kv_heads, head_dim) in shapes::QUICK_HEADS.iter().chain(extra).copied() {
            let heads = Heads { n_heads, n_kv_heads, head_dim };
            let last = shape.2.saturating_sub(shape.0);
            let tables = shape.2 + 2;
            for (n, first) in [last, last + 1].into_iter().enumerate() {
                let places = run.places_of(n);
                check(&mut run, places, types, (heads, shape, tables), &consecutive(first, shape.0))?;
            }
        }
    }
    let long = if group == Group::Full { LONG } else { &[] };
    for (types, (heads, hidden)) in run.grid(long, &[]).into_iter().filter(|(types, _)| types.is_residual()) {
        let places = &run.places()[..1];
        check(&mut run, places, types, (heads, (1, hidden, 7), 9), &consecutive(5, 1))?;
    }
    for types in run.required() {
        // Positions in the cache that the tables do not reach, and outside both.
        let heads = Heads { n_heads: 4, n_kv_heads: 2, head_dim: 6 };
        let scattered = (vec![3, 0, 8, u32::MAX, 9, 4, 50], None);
        let places = run.places();
        check(&mut run, places, types, (heads, (7, 33, 10), 5), &scattered)?;
        let head_dims: &[usize] = if group == Group::Full { &[6, 16, 80] } else { &[16] };
        for head_dim in head_dims.iter().copied() {
            let heads = Heads { head_dim, ..heads };
            check(&mut run, places, types, (heads, (7, 33, 10), 5), &consecutive(2, 7))?;
            check(&mut run, places, types, (heads, (7, 33, 5), 9), &consecutive(3, 7))?;
        }
    }
    Ok(run.report())
}

fn check<B: KernelBackend>(
    run: &mut Run<'_, B>,
    places: &[Place],
    types: Types,
    (heads, (rows, hidden, capacity), tables): (Heads, (usize, usize, usize), usize),
    (positions, first): &Positions,
) -> Result<(), Failure> {
    let Heads { n_heads, n_kv_heads, head_dim } = heads;
    let shape = format!("{n_heads}:{n_kv_heads} heads of {head_dim}");
    let at = format!("{:?}, cache {capacity}, tables {tables}", positions.first());
    let case = Case::new(types, format_args!("{rows} x {hidden}, {shape}, from {at}"));
    let seed = case.seed;
    let scale = 3.0 / (hidden as f32).sqrt();
    let inputs = Inputs {
        heads,
        eps: 1e-2,
        x: Host::random(seed, (rows, hidden), types.x, 2.0),
        norm: Host::random(seed + 1, (1, hidden), types.w, 1.5),
        w: Host::random(seed + 2, (heads.qkv_dim(), hidden), types.w, scale),
        cos: Host::random(seed + 3, (tables, head_dim / 2), DType::F32, 1.0),
        sin: Host::random(seed + 4, (tables, head_dim / 2), DType::F32, 1.0),
        cache: Host::random(seed + 5, (capacity, heads.kv_dim()), types.w, 2.0),
        positions: positions.clone(),
    };
    let want = reference(&inputs, types.out);
    for place in places {
        for first in run.firsts(*first) {
            run.case(&case, &format!("first {first:?}, {place:?}"), |b| {
                run_at(b, &inputs, &want, types, *place, first)
            })?;
        }
    }
    Ok(())
}

fn run_at<B: KernelBackend>(
    b: &B,
    inputs: &Inputs,
    want: &Outputs,
    types: Types,
    place: Place,
    first: Option<usize>,
) -> Step {
    let Inputs { heads, eps, x, norm, w, cos, sin, cache, positions } = inputs;
    let up = |host: &Host| Slot::new(b, host, place);
    let (x_slot, norm, w, cos, sin) = (up(x)?, up(norm)?, up(w)?, up(cos)?, up(sin)?);
    let (index, mut k, mut v) = (up(&Host::index(positions))?, up(cache)?, up(cache)?);
    let mut qkv = Slot::blank(b, (x.rows, heads.qkv_dim()), types.out, place)?;
    let mut scratch = Slot::blank(b, (x.rows, x.cols), types.out, place)?;
    let op = NormQkvRopeAppend {
        x: x_slot.mat()?,
        norm: norm.mat()?,
        eps: *eps,
        w: w.mat()?,
        heads: *heads,
        cos: cos.mat()?,
        sin: sin.mat()?,
        at: At { positions: index.mat()?, first, distinct: false },
        qkv: qkv.mat_mut()?,
        k: k.mat_mut()?,
        v: v.mat_mut()?,
        scratch: scratch.mat_mut()?,
    };
    b.norm_qkv_rope_append(op.check()?)?;
    scratch.surroundings(b, "scratch")?;
    let got = qkv.surroundings(b, "qkv")?;
    let queries: Vec<f64> =
        got.chunks(heads.qkv_dim()).flat_map(|row| row[..heads.q_dim()].to_vec()).collect();
    compare("queries", heads.q_dim(), types.out, &queries, &want.q, Judge::Fused(types.out))?;
    k.check(b, "k", &want.k, Judge::Fused(types.out))?;
    v.check(b, "v", &want.v, Judge::Fused(types.out))
}
