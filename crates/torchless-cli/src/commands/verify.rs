//! `torchless verify`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use torchless::{Backend, DType, GenerateOptions, Model};

use crate::args::VerifyArgs;
use crate::failure::Failure;
use crate::golden::{Golden, Greedy};
use crate::interrupt;
use crate::output::{Progress, print};
use crate::source::{self, Source, feed};

/// Runs the command.
pub(crate) fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let source = Source::of_model(args.model.as_deref())?;
    let shape = &source.config.shape;
    let golden = Golden::read(&args.golden, shape.vocab_size, shape.max_position_embeddings)?;
    let cancel = interrupt::listen();
    let backend = source::backend(args.device.device, args.device.threads)?;
    let name = source.name.clone();
    let model = source.load(&backend, args.load.options(), &cancel)?;
    let types = source::types(&model);
    let dtype = coarser(model.dtype(), model.kv_dtype());
    let tolerance = tolerance(dtype);
    print(&format!(
        "{name}, {types}, {} positions; tolerance: NMSE {tolerance:.0e}\n",
        golden.positions.len()
    ))?;
    let mut passed = true;
    for (way, difference) in [
        ("one batch", batch(&model, &golden, &cancel)?),
        ("token by token", steps(&model, &golden, &cancel)?),
    ] {
        print(&format!("{way:<15} {difference}\n"))?;
        passed &= difference.nmse() <= tolerance;
    }
    if let Some(greedy) = &golden.greedy {
        let (line, same) = match first_difference(&model, greedy, &cancel)? {
            None => (format!("all {} ids as expected", greedy.ids.len() - greedy.prompt_len), true),
            Some((at, expected, got)) => {
                (format!("differs from position {at} on: {got} instead of {expected}"), false)
            }
        };
        print(&format!("{:<15} {line}\n", "greedy"))?;
        passed &= same || dtype != DType::F32;
    }
    if passed {
        return print("ok\n");
    }
    print("FAILED\n")?;
    let advice = if dtype == DType::F32 {
        "the model or the golden file is not the one that belongs to the other"
    } else {
        "try --dtype f32 --kv-dtype f32, to tell rounding from wrong weights"
    };
    Err(Failure::Failed(format!("{}: beyond the tolerance of {dtype}; {advice}", args.golden.display())))
}

/// The one of two types that allows the larger error.
fn coarser(a: DType, b: DType) -> DType {
    if tolerance(a) < tolerance(b) { b } else { a }
}

/// Largest normalised mean squared error for weights and a cache of this type.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 1e-6,
        DType::BF16 => 2e-5,
        _ => 1e-10,
    }
}

/// How far logits are from their references.
#[derive(Debug, Default)]
struct Difference {
    squares: f64,
    reference_squares: f64,
    largest: f64,
    rows: usize,
    same_choice: usize,
}

impl Difference {
    fn add(&mut self, got: &[f32], reference: &[f64]) {
        for (got, reference) in got.iter().zip(reference) {
            let error = f64::from(*got) - reference;
            self.squares += error * error;
            self.reference_squares += reference * reference;
            // `max` would drop a NaN.
            if error.is_nan() || error.abs() > self.largest {
                self.largest = error.abs();
            }
        }
        self.rows += 1;
        let got = got.iter().map(|v| f64::from(*v));
        self.same_choice += usize::from(largest(got) == largest(reference.iter().copied()));
    }

    /// Squared error over the squared reference; NaN where logits are not numbers.
    fn nmse(&self) -> f64 {
        self.squares / self.reference_squares
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (nmse, largest) = (self.nmse(), self.largest);
        write!(f, "NMSE {nmse:.2e}, largest error {largest:.2e}, top-1 {}/{}", self.same_choice, self.rows)
    }
}

/// Index of the largest value, the first of equal ones.
fn largest(values: impl Iterator<Item = f64>) -> Option<usize> {
    let better = |best: (usize, f64), next: (usize, f64)| if next.1 > best.1 { next } else { best };
    values.enumerate().reduce(better).map(|(i, _)| i)
}

/// The whole prompt at once.
fn batch(model: &Model<Backend>, golden: &Golden, cancel: &AtomicBool) -> Result<Difference, Failure> {
    let mut session = model.session(golden.context())?;
    let rows = feed(&mut session, &golden.input_ids, &golden.positions, cancel)?;
    let mut difference = Difference::default();
    for (got, reference) in rows.iter().zip(&golden.logits) {
        difference.add(got, reference);
    }
    Ok(difference)
}

/// The prompt through the decoding step.
fn steps(model: &Model<Backend>, golden: &Golden, cancel: &AtomicBool) -> Result<Difference, Failure> {
    let mut session = model.session(golden.context())?;
    let mut difference = Difference::default();
    let progress = Progress::counting("token by token");
    for (position, id) in golden.input_ids.iter().enumerate() {
        if cancel.load(Relaxed) {
            progress.finish();
            return Err(Failure::Interrupted);
        }
        let got = session.step_logits(*id)?;
        for (_, reference) in golden.positions.iter().zip(&golden.logits).filter(|(p, _)| **p == position) {
            difference.add(&got, reference);
        }
        progress.set(position as u64 + 1, golden.input_ids.len() as u64);
    }
    progress.finish();
    Ok(difference)
}

/// The first position whose greedy id is another: position, expected id, id.
fn first_difference(
    model: &Model<Backend>,
    greedy: &Greedy,
    cancel: &Arc<AtomicBool>,
) -> Result<Option<(usize, u32, String)>, Failure> {
    let (prompt, expected) = greedy.ids.split_at(greedy.prompt_len);
    // The context may end with the last id, which is only chosen and never fed.
    let mut session = model.session(greedy.ids.len())?;
    let options = GenerateOptions {
        max_tokens: expected.len(),
        ignore_eos: true,
        cancel: Some(cancel.clone()),
        ..GenerateOptions::default()
    };
    let mut generation = session.generate_ids(prompt, &options)?;
    for (i, expected) in expected.iter().enumerate() {
        let got = generation.next().transpose()?.map(|token| token.id);
        if cancel.load(Relaxed) {
            return Err(Failure::Interrupted);
        }
        if got != Some(*expected) {
            let got = got.map_or_else(|| "nothing".into(), |id| id.to_string());
            return Ok(Some((greedy.prompt_len + i, *expected, got)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_relative_and_sees_nan() {
        let mut difference = Difference::default();
        difference.add(&[3.0, 1.0], &[3.0, 2.0]);
        assert_eq!(difference.nmse(), 1.0 / 13.0);
        assert_eq!((difference.largest, difference.same_choice), (1.0, 1));
        difference.add(&[f32::NAN, 1.0], &[0.0, 2.0]);
        assert!(difference.nmse().is_nan() && difference.largest.is_nan());
        difference.add(&[1.0, 2.0], &[2.0, 1.0]);
        assert!(difference.largest.is_nan());
        assert_eq!(difference.rows, 3);
    }
}
