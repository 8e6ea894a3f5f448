//! Cases of [`ComputeAttentionScores`].

use backend_api::ops::ComputeAttentionScores;
use backend_api::{Heads, KernelBackend, Op};

use crate::case::{Case, Place, Run, Slot, Types, check_tensor};
use crate::host::Host;
use crate::ops::matmul::dot;
use crate::tolerance::{Judge, U, Want};
use crate::{Failure, Group, Report, ops::huge, shapes};

/// `scale · q·k` with what f32 accumulation may add.
pub fn score(q: &[f64], k: &[f64], scale: f32) -> Want {
    let ((product, magnitude), scale) = (dot(q, k), f64::from(scale));
    let value = product * scale;
    Want::sum(value, q.len(), magnitude * scale.abs()).plus(2.0 * U * value.abs())
}

/// The score of every row, head and key.
pub fn reference(q: &Host, k: &Host, heads: Heads, scale: f32) -> Vec<Want> {
    let mut want = Vec::with_capacity(q.rows * heads.n_heads * k.rows);
    for (row, head) in (0..q.rows).flat_map(|row| (0..heads.n_heads).map(move |head| (row, head))) {
        let query = &q.row(row)[head * heads.head_dim..(head + 1) * heads.head_dim];
        let of_key = head / heads.group() * heads.head_dim;
        let key = |j: usize| &k.row(j)[of_key..of_key + heads.head_dim];
        want.extend((0..k.rows).map(|j| score(query, key(j), scale)));
    }
    want
}

/// Runs the cases.
///
/// # Errors
/// The first that fails.
pub fn run<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, Failure> {
    let mut run = Run::new(backend, "compute_attention_scores", group);
    if group == Group::Huge {
        huge::compute_attention_scores(&mut run)?;
        return Ok(run.report());
    }
    // Rows, keys, head_dim.
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
    ];
    for (types, (rows, keys, dim)) in run.grid(quick, full) {
        check(&mut run, types, (Heads::single(dim), rows, keys))?;
    }
    for (types, shape) in run.grid(shapes::QUICK_GROUPS, shapes::FULL_GROUPS) {
        check(&mut run, types, shape)?;
    }
    Ok(run.report())
}

fn check<B: KernelBackend>(
    run: &mut Run<'_, B>,
    types: Types,
    (heads, rows, keys): (Heads, usize, usize),
) -> Result<(), Failure> {
    let Heads { n_heads, n_kv_heads, head_dim: dim } = heads;
    let shape = format!("{rows} x {keys}, {n_heads}:{n_kv_heads} heads of {dim}");
    let case = Case::new(types, shape);
    let q = Host::random(case.seed, (rows, heads.q_dim()), types.x, 2.0);
    let k = Host::random(case.seed + 1, (keys, heads.kv_dim()), types.w, 2.0);
    let scale = 1.0 / (dim.max(1) as f32).sqrt();
    let want = reference(&q, &k, heads, scale);
    for place in run.places() {
        run.case(&case, &format!("into, {place:?}"), |b| {
            let (q, k) = (Slot::new(b, &q, *place)?, Slot::new(b, &k, *place)?);
            let mut out = Slot::blank(b, (rows * n_heads, keys), types.out, *place)?;
            let op = ComputeAttentionScores { q: q.mat()?, k: k.mat()?, heads, scale, out: out.mat_mut()? };
            b.compute_attention_scores_into(op.check()?)?;
            out.check(b, "out", &want, Judge::Reduction)
        })?;
    }
    if types.x != types.out || n_heads != 1 {
        return Ok(());
    }
    run.case(&case, "returning", |b| {
        let (q, k) = (Slot::new(b, &q, Place::WHOLE)?, Slot::new(b, &k, Place::WHOLE)?);
        let out = b.compute_attention_scores(&q.tensor, &k.tensor, scale)?;
        check_tensor(b, &out, (&[rows, keys], types.out), &want, Judge::Reduction)
    })
}
