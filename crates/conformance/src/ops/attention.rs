//! Cases of [`Attention`].

use backend_api::ops::Attention;
use backend_api::{At, DType, Error, Heads, KernelBackend, Op};

use crate::case::{Case, Place, Run, Slot, Types};
use crate::host::{Host, smallest};
use crate::ops::apply_rope::{Positions, consecutive};
use crate::ops::{compute_attention_scores, huge, softmax};
use crate::report::Problem;
use crate::tolerance::{Judge, Want, gamma};
use crate::{Failure, Group, Report, shapes};

/// Rows of the cache that a row at `position` sees.
pub fn seen(position: usize, capacity: usize, window: Option<usize>) -> std::ops::Range<usize> {
    let end = position.saturating_add(1).min(capacity);
    window.map_or(0, |w| end.saturating_sub(w))..end
}

/// Attention of one head of one row. Probabilities may be stored in `stored`.
pub fn head(q: &[f64], keys: &[&[f64]], values: &[&[f64]], scale: f32, stored: DType) -> Vec<Want> {
    let scores: Vec<Want> = keys.iter().map(|k| compute_attention_scores::score(q, k, scale)).collect();
    let probabilities = softmax::row(&scores.iter().map(|s| s.value).collect::<Vec<_>>());
    // An error of a score is a relative error of its probability, and moves all others through the sum.
    let mean: f64 = probabilities.iter().zip(&scores).map(|(p, s)| p.value * s.error).sum();
    let weights: Vec<Want> = probabilities
        .iter()
        .zip(&scores)
        .map(|(p, s)| {
            let rounding = stored.unit_roundoff() * p.value + smallest(stored) / 2.0;
            Want { value: p.value, error: p.error + p.value * (s.error + mean) + rounding }
        })
        .collect();
    let element = |c: usize| {
        let (mut value, mut error, mut magnitude) = (0.0, 0.0, 0.0);
        for (w, v) in weights.iter().zip(values) {
            value += w.value * v[c];
            error += w.error * v[c].abs();
            magnitude += w.value * v[c].abs();
        }
        Want { value, error }.plus(gamma(values.len()) * magnitude)
    };
    (0..q.len()).map(element).collect()
}

/// Attention of every row and head.
pub fn reference(
    (q, k, v): (&Host, &Host, &Host),
    heads: Heads,
    window: Option<usize>,
    positions: &[u32],
) -> Vec<Want> {
    let mut want = Vec::with_capacity(q.data.len());
    for (row, position) in positions.iter().enumerate() {
        let seen = seen(*position as usize, k.rows, window);
        for i in 0..heads.n_heads {
            let kv = i / heads.group() * heads.head_dim;
            let of = |cache| seen.clone().map(|j| &Host::row(cache, j)[kv..kv + heads.head_dim]).collect();
            let (keys, values): (Vec<&[f64]>, Vec<&[f64]>) = (of(k), of(v));
            let q = &q.row(row)[i * heads.head_dim..(i + 1) * heads.head_dim];
            want.extend(head(q, &keys, &values, heads.scale(), k.dtype));
        }
    }
    want
}

/// Heads of prompts that are longer than a block of any kernel takes.
const PROMPT_HEADS: &[(usize, usize, usize)] =
    &[(9, 1, 40), (3, 1, 64), (4, 2, 96), (8, 2, 128), (2, 2, 256)];

/// Heads, rows, first position and capacity of the quick group's only prompts, and of its only long cache.
const WIDE: &[((usize, usize, usize), Span)] =
    &[((4, 1, 80), (16, 3, 20)), ((4, 1, 64), (16, 3, 20)), ((2, 1, 64), (1, 33, 8200))];

type Long = ((usize, usize, usize), usize, Option<usize>);

/// Heads, rows and window at the end of a cache as long as models go.
const LONG: &[Long] = &[((2, 1, 40), 1, None), ((4, 1, 128), 17, Some(2000)), ((12, 1, 64), 1, None)];

const LONGEST: usize = 32_768;

fn heads_of((n_heads, n_kv_heads, head_dim): (usize, usize, usize)) -> Heads {
    Heads { n_heads, n_kv_heads, head_dim }
}

/// Rows, first position, capacity of the cache.
type Span = (usize, usize, usize);

/// Runs the cases.
///
/// # Errors
/// The first that fails.
pub fn run<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, Failure> {
    let mut run = Run::new(backend, "attention", group).issued(|w, t| Types { x: t, w, out: t });
    if group == Group::Huge {
        huge::attention(&mut run)?;
        return Ok(run.report());
    }
    let quick: &[Span] = &[(0, 0, 4), (1, 0, 1), (1, 0, 5), (1, 33, 40), (5, 2, 9), (2, 4, 5)];
    let full: &[Span] = &[
        (1, 31, 32),
        (1, 255, 300),
        (1, 256, 257),
        (1, 1024, 1025),
        (33, 0, 33),
        (64, 64, 128),
        (3, 254, 260),
        (1, 9, 5),
        (17, 1000, 1030),
    ];
    for (types, span) in run.grid(quick, full) {
        let every = group == Group::Full && quick.contains(&span);
        let windows: &[_] = if every { &[None, Some(1), Some(3), Some(5000)] } else { &[None, Some(3)] };
        for heads in shapes::QUICK_HEADS {
            for window in windows {
                check(&mut run, types, (heads_of(*heads), *window), span.2, &consecutive(span.1, span.0))?;
            }
        }
    }
    let extra: &[_] = if group == Group::Full { shapes::FULL_HEADS } else { &[] };
    for types in run.required() {
        for heads in extra {
            for (rows, first, capacity) in [(1, 31, 33), (5, 0, 5), (65, 31, 131)] {
                check(&mut run, types, (heads_of(*heads), None), capacity, &consecutive(first, rows))?;
            }
        }
    }
    let wide = if group == Group::Quick { WIDE } else { &[] };
    for (types, (heads, (rows, first, capacity))) in
        run.required().into_iter().flat_map(|t| wide.iter().map(move |w| (t, *w)))
    {
        let (places, at) = (run.places_of(0), consecutive(first, rows));
        check_at(&mut run, places, types, (heads_of(heads), None), capacity, &at)?;
    }
    for types in run.required() {
        let heads = Heads { n_heads: 4, n_kv_heads: 2, head_dim: 40 };
        let scattered = (vec![7, 0, 40, 3, 3, u32::MAX, 39], None);
        for window in [None, Some(4)] {
            check(&mut run, types, (heads, window), 40, &scattered)?;
        }
        if group == Group::Full {
            let heads = Heads { n_heads: 2, n_kv_heads: 1, head_dim: 64 };
            check(&mut run, types, (heads, None), 8200, &consecutive(8191, 2))?;
            check(&mut run, types, (heads, Some(4096)), 8200, &consecutive(8191, 2))?;
            // A long cache takes its time to make; mixtures have been through shorter ones.
            let long = if types.x == types.w { LONG } else { &[] };
            for (heads, rows, window) in long {
                let at = consecutive(LONGEST - rows, *rows);
                check(&mut run, types, (heads_of(*heads), *window), LONGEST, &at)?;
            }
            for heads in PROMPT_HEADS {
                let heads = heads_of(*heads);
                for (positions, window) in [(consecutive(100, 150), None), (consecutive(150, 150), Some(70))]
                {
                    check(&mut run, types, (heads, window), 300, &positions)?;
                }
                let scattered = (0..90).map(|row| row * 7919 % 301).chain([u32::MAX]).collect();
                check(&mut run, types, (heads, Some(50)), 300, &(scattered, None))?;
            }
        }
    }
    Ok(run.report())
}

/// Random elements in the rows that are seen, NaN in the others.
fn cache(seed: u64, rows: &[bool], cols: usize, dtype: DType) -> Host {
    let mut cache = Host::random(seed, (rows.len(), cols), dtype, 2.0);
    let unseen = rows.iter().enumerate().filter(|(_, seen)| !**seen);
    unseen.for_each(|(row, _)| cache.data[row * cols..(row + 1) * cols].fill(f64::NAN));
    cache
}

fn check<B: KernelBackend>(
    run: &mut Run<'_, B>,
    types: Types,
    heads: (Heads, Option<usize>),
    capacity: usize,
    positions: &Positions,
) -> Result<(), Failure> {
    let places = run.places();
    check_at(run, places, types, heads, capacity, positions)
}

fn check_at<B: KernelBackend>(
    run: &mut Run<'_, B>,
    places: &[Place],
    types: Types,
    (heads, window): (Heads, Option<usize>),
    capacity: usize,
    (positions, first): &Positions,
) -> Result<(), Failure> {
    let Heads { n_heads, n_kv_heads, head_dim } = heads;
    let (rows, shown) = (positions.len(), positions.first());
    let shape = format!("{rows} rows from {shown:?}, cache {capacity}, window {window:?}");
    let case = Case::new(types, format_args!("{n_heads}:{n_kv_heads} heads of {head_dim}, {shape}"));
    let mut used = vec![false; capacity];
    for position in positions {
        used[seen(*position as usize, capacity, window)].fill(true);
    }
    let q = Host::random(case.seed, (rows, heads.q_dim()), types.x, 3.0);
    let k = cache(case.seed + 1, &used, heads.kv_dim(), types.w);
    let v = cache(case.seed + 2, &used, heads.kv_dim(), types.w);
    let want = reference((&q, &k, &v), heads, window, positions);
    let run_at = |b: &B, place: Place, first: Option<usize>| {
        let (q, index) = (Slot::new(b, &q, place)?, Slot::new(b, &Host::index(positions), place)?);
        let (k, v) = (Slot::new(b, &k, place)?, Slot::new(b, &v, place)?);
        let mut out = Slot::blank(b, (rows, heads.q_dim()), types.out, place)?;
        let mut scratch = Slot::blank(b, (n_heads, capacity), DType::F32, place)?;
        let op = Attention {
            q: q.mat()?,
            k: k.mat()?,
            v: v.mat()?,
            heads,
            window,
            at: At { positions: index.mat()?, first, distinct: false },
            out: out.mat_mut()?,
            scratch: scratch.mat_mut()?,
        };
        b.attention(op.check()?)?;
        scratch.surroundings(b, "scratch")?;
        out.check(b, "out", &want, Judge::Fused(types.w))
    };
    for place in places {
        for first in run.firsts(*first) {
            run.case(&case, &format!("first {first:?}, {place:?}"), |b| match run_at(b, *place, first) {
                // Only a backend that reads positions on the device can do without the host's.
                Err(Problem::Backend(Error::Captured { .. })) if first.is_none() => Ok(()),
                result => result,
            })?;
        }
    }
    Ok(())
}
