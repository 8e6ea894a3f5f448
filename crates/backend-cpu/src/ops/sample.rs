//! The logits are filtered on one thread, and sorted only as far as top-p asks.

use std::cmp::Ordering;

use backend_api::Result;
use backend_api::ops::{NO_ID, Sample, SampleParams, WEIGHT_ONE, weight};

use super::argmax::largest;
use crate::CpuTensor;
use crate::tensor::{Widened, integers_mut};

/// Ids that are sorted at first when the most likely ones are looked for.
const FIRST_SORTED: usize = 256;

pub(crate) fn sample(op: Sample<'_, CpuTensor>) -> Result<()> {
    let Sample { logits, history, id, position, params } = op;
    let mut logits = Widened::new(logits)?.rows()?.row(0).to_vec();
    let (mut history, mut id, mut position) =
        (integers_mut(history)?, integers_mut(id)?, integers_mut(position)?);
    let (history, id, position) = (history.row(0), id.row(0), position.row(0));
    let here = position.first().map_or(0, |p| *p);
    let seen = history.get(..=here as usize).unwrap_or(history);
    penalize(&mut logits, seen, &params);
    let next = here.wrapping_add(1);
    let chosen = choose(&logits, next, &params).unwrap_or(NO_ID);
    id.fill(chosen);
    position.fill(next);
    if let Some(slot) = history.get_mut(next as usize) {
        *slot = chosen;
    }
    Ok(())
}

fn penalize(logits: &mut [f32], seen: &[u32], params: &SampleParams) {
    if params.repetition_penalty == 1.0 {
        return;
    }
    let mut seen = seen.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = params.penalized(*logit);
        }
    }
}

fn choose(logits: &[f32], position: u32, params: &SampleParams) -> Option<u32> {
    let best = largest(logits)?;
    let max = logits[best as usize];
    if max.is_infinite() {
        return None;
    }
    if params.temperature == 0.0 {
        return Some(best);
    }
    let weight_of = |logit: f32| weight((logit - max) / params.temperature);
    let all = logits.iter().zip(0u32..).map(|(l, id)| Candidate { logit: *l, id, weight: weight_of(*l) });
    let mut kept: Vec<Candidate> = all.filter(|c| c.weight > 0).collect();
    keep_top_k(&mut kept, params.top_k);
    keep_top_p(&mut kept, params);
    let least = params.min_p_weight().min(WEIGHT_ONE);
    kept.retain(|c| c.weight >= least);
    kept.sort_unstable_by_key(|c| c.id);
    let total = kept.iter().map(|c| c.weight).sum();
    let mut left = params.draw(position, total);
    kept.iter()
        .find(|c| {
            c.weight > left || {
                left -= c.weight;
                false
            }
        })
        .map(|c| c.id)
}

#[derive(Clone, Copy)]
struct Candidate {
    logit: f32,
    id: u32,
    weight: u64,
}

/// The order of likelihood: larger logits first, of equal ones the lower id.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
}

fn keep_top_k(kept: &mut Vec<Candidate>, k: usize) {
    if k > 0 && k < kept.len() {
        kept.select_nth_unstable_by(k - 1, likelier);
        kept.truncate(k);
    }
}

fn keep_top_p(kept: &mut Vec<Candidate>, params: &SampleParams) {
    if params.top_p >= 1.0 {
        return;
    }
    let wanted = params.top_p_mass(kept.iter().map(|c| c.weight).sum());
    let mut sorted = FIRST_SORTED;
    loop {
        let n = sorted.min(kept.len());
        if n < kept.len() {
            kept.select_nth_unstable_by(n, likelier);
        }
        kept[..n].sort_unstable_by(likelier);
        let mut mass = 0;
        let reached = kept[..n].iter().position(|c| {
            mass += c.weight;
            mass >= wanted
        });
        if let Some(last) = reached {
            return kept.truncate(last + 1);
        }
        if n == kept.len() {
            return;
        }
        sorted *= 4;
    }
}
