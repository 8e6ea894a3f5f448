//! Cases of [`Sample`].

use backend_api::ops::{NO_ID, Sample, SampleParams, weight};
use backend_api::{DType, KernelBackend, Op};

use crate::case::{Case, Place, Run, Slot, Types, check_tensor};
use crate::host::{Host, largest};
use crate::ops::argmax;
use crate::tolerance::{Judge, Want};
use crate::{Failure, Group, Report};

/// The id for the token after `position`, `context` being the ids up to it.
pub fn choose(logits: &[f64], context: &[u32], position: u32, params: &SampleParams) -> u32 {
    let mut logits: Vec<f32> = logits.iter().map(|v| *v as f32).collect();
    let mut seen = context.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = params.penalized(*logit);
        }
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if logits.iter().any(|l| l.is_nan()) || !max.is_finite() {
        return NO_ID;
    }
    if params.temperature == 0.0 {
        return argmax::row(&logits.iter().map(|l| f64::from(*l)).collect::<Vec<_>>());
    }
    // Ids and their weights, the most likely first, of equal ones the lower id.
    let mut kept: Vec<usize> = (0..logits.len()).collect();
    let order = |a: f32, b: f32| a.partial_cmp(&b).unwrap_or(std::cmp::Ordering::Equal);
    kept.sort_by(|a, b| order(logits[*b], logits[*a]).then(a.cmp(b)));
    if params.top_k > 0 {
        kept.truncate(params.top_k);
    }
    let weigh = |id: &usize| weight((logits[*id] - max) / params.temperature);
    if params.top_p < 1.0 {
        let mass = params.top_p_mass(kept.iter().map(weigh).sum());
        let mut sum = 0;
        let short = kept.iter().take_while(|id| {
            let before = sum;
            sum += weigh(id);
            before < mass
        });
        let count = short.count();
        kept.truncate(count.max(1));
    }
    kept.retain(|id| weigh(id) >= params.min_p_weight());
    kept.sort_unstable();
    let point = params.draw(position.wrapping_add(1), kept.iter().map(weigh).sum());
    let mut sum = 0;
    let chosen = kept.iter().find(|id| {
        sum += weigh(id);
        sum > point
    });
    chosen.map_or(NO_ID, |id| *id as u32)
}

/// Parameters: each step alone, and all of them.
fn parameters(group: Group) -> Vec<SampleParams> {
    let random = SampleParams { temperature: 1.0, ..SampleParams::default() };
    let mut all = vec![
        SampleParams::default(),
        SampleParams { repetition_penalty: 1.7, ..SampleParams::default() },
        random,
        SampleParams { temperature: 0.3, seed: 1, ..random },
        SampleParams { top_k: 1, ..random },
        SampleParams { top_k: 5, seed: 2, ..random },
        SampleParams { top_p: 0.6, seed: 3, ..random },
        SampleParams { min_p: 0.4, seed: 4, ..random },
        SampleParams { repetition_penalty: 1.3, seed: u64::MAX, ..random },
        SampleParams {
            repetition_penalty: 1.2,
            temperature: 0.8,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.05,
            seed: 6,
        },
    ];
    if group == Group::Full {
        all.extend([
            SampleParams { repetition_penalty: 0.7, seed: 7, ..random },
            SampleParams { temperature: 1e-3, seed: 8, ..random },
            SampleParams { temperature: 50.0, seed: 9, ..random },
            SampleParams { top_k: 1_000_000, seed: 10, ..random },
            SampleParams { top_k: 33, seed: 11, ..random },
            SampleParams { top_p: 1e-6, seed: 12, ..random },
            SampleParams { top_p: 0.999, seed: 13, ..random },
            SampleParams { min_p: 1.0, seed: 14, ..random },
            SampleParams { top_k: 50, top_p: 0.5, seed: 15, ..random },
            SampleParams { top_p: 0.5, min_p: 0.2, seed: 16, ..random },
        ]);
    }
    all
}

/// Runs the cases.
///
/// # Errors
/// The first that fails.
pub fn run<B: KernelBackend>(backend: &B, group: Group) -> Result<Report, Failure> {
    let mut run = Run::new(backend, "sample", group);
    let grid = run.grid(&parameters(group), &[]).into_iter().filter(|(types, _)| !types.mixed());
    // In the quick group a case has one of the inputs and one of the places, in turn.
    let all = group == Group::Full;
    for (n, (types, params)) in grid.enumerate() {
        let vocabs: &[usize] = match n % 5 {
            _ if all => &[0, 1, 2, 31, 32, 33, 255, 257, 1024, 1025, 4099, 32_003, 128_256],
            0 => &[1025, 33, 1, 0],
            _ => &[1025, 33],
        };
        for (v, vocab) in vocabs.iter().enumerate() {
            let case = Case::new(types, format_args!("{vocab} logits, {params:?}"));
            let logits = Host::random(case.seed, (1, *vocab), types.x, 6.0);
            let coarse = Host { data: logits.data.iter().map(|v| v.trunc()).collect(), ..logits.clone() };
            let inputs = [(&logits, (12, 5)), (&coarse, (12, 11)), (&logits, (3, 9))];
            let taken = if *vocab <= 5000 { &inputs[..] } else { &inputs[..1] };
            for (i, (logits, at)) in taken.iter().enumerate() {
                if all || i == (n + v) % 3 {
                    let places = run.places_of(n / 2 + v);
                    check(&mut run, places, &case, logits, *at, params)?;
                }
            }
        }
        special(&mut run, n, types, params)?;
    }
    Ok(run.report())
}

fn special<B: KernelBackend>(
    run: &mut Run<'_, B>,
    n: usize,
    types: Types,
    params: SampleParams,
) -> Result<(), Failure> {
    let (inf, nan, large) = (f64::INFINITY, f64::NAN, largest(types.x));
    let rows: [&[f64]; 9] = [
        &[-inf, -inf, -inf],
        &[-inf, -inf, 1.0, -inf, 1.0],
        &[0.5, nan, 2.0],
        &[0.5, 1.0, inf],
        &[nan],
        &[1.5; 70],
        &[-large / 2.0, 0.0, -40.0, -27.5, -1.0],
        &[0.0, -0.0, 0.0],
        &[-0.0, 0.0, -1.0],
    ];
    let all = run.group == Group::Full;
    for (i, logits) in rows.iter().enumerate().filter(|(i, _)| all || (n + i).is_multiple_of(5)) {
        let case = Case::new(types, format_args!("special row {i}, {params:?}"));
        let logits = Host::from_fn((1, logits.len()), types.x, |_, c| logits[c]);
        let places = run.places_of(i);
        check(run, places, &case, &logits, (6, 2), params)?;
    }
    Ok(())
}

fn check<B: KernelBackend>(
    run: &mut Run<'_, B>,
    places: &[Place],
    case: &Case,
    logits: &Host,
    (context, position): (usize, u32),
    params: SampleParams,
) -> Result<(), Failure> {
    // Every third id stands outside the vocabulary.
    let id = |i: usize| if i % 3 == 1 { u32::MAX - i as u32 } else { (i * i) as u32 % 40 };
    let history: Vec<u32> = (0..context).map(id).collect();
    let seen = &history[..context.min(position as usize + 1)];
    let chosen = choose(&logits.data, seen, position, &params);
    let mut extended = history.clone();
    if let Some(next) = extended.get_mut(position as usize + 1) {
        *next = chosen;
    }
    let exact = |values: &[u32]| values.iter().map(|v| Want::exact(f64::from(*v))).collect::<Vec<_>>();
    for place in places {
        run.case(case, &format!("context {context}, position {position}, {place:?}"), |b| {
            let logits = Slot::new(b, logits, *place)?;
            let mut history = Slot::new(b, &Host::index(&history), *place)?;
            let mut at = Slot::new(b, &Host::index(&[position]), *place)?;
            let mut id = Slot::blank(b, (1, 1), DType::U32, *place)?;
            let op = Sample {
                logits: logits.mat()?,
                history: history.mat_mut()?,
                id: id.mat_mut()?,
                position: at.mat_mut()?,
                params,
            };
            b.sample_into(op.check()?)?;
            id.check(b, "id", &exact(&[chosen]), Judge::Bits)?;
            at.check(b, "position", &exact(&[position + 1]), Judge::Bits)?;
            history.check(b, "history", &exact(&extended), Judge::Bits)
        })?;
    }
    if run.group == Group::Quick {
        return Ok(());
    }
    run.case(case, "returning", |b| {
        let logits = Slot::new(b, logits, Place::WHOLE)?;
        let mut history = Slot::new(b, &Host::index(&history), Place::WHOLE)?;
        let mut at = Slot::new(b, &Host::index(&[position]), Place::WHOLE)?;
        let id = b.sample(&logits.tensor, &mut history.tensor, &mut at.tensor, params)?;
        check_tensor(b, &id, (&[1], DType::U32), &exact(&[chosen]), Judge::Bits)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: SampleParams =
        SampleParams { repetition_penalty: 1.0, temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

    /// Ids chosen at any of 2000 positions.
    fn support(logits: &[f64], context: &[u32], params: SampleParams) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..2000).map(|p| choose(logits, context, p, &params)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    #[test]
    fn the_steps_keep_what_they_say() {
        // Probabilities 0.5, 0.25, 0.125, 0.125.
        let logits = [0.5f64, 0.25, 0.125, 0.125].map(f64::ln);
        assert_eq!(support(&logits, &[], RANDOM), [0, 1, 2, 3]);
        assert_eq!(support(&logits, &[], SampleParams { top_k: 3, ..RANDOM }), [0, 1, 2]);
        assert_eq!(support(&logits, &[], SampleParams { top_p: 0.6, ..RANDOM }), [0, 1]);
        assert_eq!(support(&logits, &[], SampleParams { top_p: 0.4, ..RANDOM }), [0]);
        assert_eq!(support(&logits, &[], SampleParams { min_p: 0.3, ..RANDOM }), [0, 1]);
        assert_eq!(support(&logits, &[], SampleParams { temperature: 0.0, ..RANDOM }), [0]);
        let penalty = SampleParams { repetition_penalty: 100.0, temperature: 0.0, ..RANDOM };
        assert_eq!(support(&logits, &[0, 0, 9], penalty), [1]);
    }

    #[test]
    fn shares_are_the_probabilities() {
        let logits = [0.5f64, 0.25, 0.125, 0.125].map(f64::ln);
        let chosen = (0..8000).map(|p| choose(&logits, &[], p, &RANDOM));
        let counts = chosen.fold([0; 4], |mut counts, id| {
            counts[id as usize] += 1;
            counts
        });
        for (count, share) in counts.iter().zip([4000, 2000, 1000, 1000]) {
            assert!((share - 150..share + 150).contains(count), "{counts:?}");
        }
    }

    #[test]
    fn rows_without_a_choice_have_no_id() {
        for params in [RANDOM, SampleParams::default()] {
            for logits in [&[f64::NEG_INFINITY; 2][..], &[0.0, f64::NAN], &[0.0, f64::INFINITY], &[]] {
                assert_eq!(choose(logits, &[], 0, &params), NO_ID, "{logits:?}");
            }
        }
    }
}
