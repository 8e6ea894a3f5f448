//! Timing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use torchless::{Backend, Counters, GenerateOptions, KernelBackend, Model, Session};

use super::limits::prompt_flops;
use super::report::{Decode, PerStep, Prompt};
use crate::failure::Failure;
use crate::output::Progress;
use crate::source::feed;

/// Repetitions where none are asked for, and how long an entry may then take.
const REPEAT: usize = 3;
const PATIENCE: Duration = Duration::from_secs(10);

/// Tokens that are fed before a prompt is timed.
const WARM_UP: usize = 32;

/// Tokens that are generated before steps are timed: the first steps of a session may prepare what the others repeat.
const WARM_STEPS: usize = 3;

/// Times one model.
pub(crate) struct Bench {
    session: Session<Backend>,
    repeat: Option<usize>,
    cancel: Arc<AtomicBool>,
}

impl Bench {
    /// A session of this context. `repeat` absent: [`REPEAT`], or as often as [`PATIENCE`] allows.
    pub(crate) fn new(
        model: &Model<Backend>,
        context: usize,
        repeat: Option<usize>,
        cancel: Arc<AtomicBool>,
    ) -> Result<Self, Failure> {
        Ok(Self { session: model.session(context)?, repeat, cancel })
    }

    /// Times a prompt of this many tokens, from feeding it to its last logits, and where the context has room for one, to the
    /// arrival of the first token.
    ///
    /// # Errors
    /// [`Failure::Interrupted`], and those of the session.
    pub(crate) fn prompt(&mut self, tokens: usize) -> Result<Prompt, Failure> {
        let vocab = self.session.model().config().shape.vocab_size.max(1);
        // Ids from all over the embedding table: 2^31 - 1 is prime.
        let ids: Vec<u32> = (1..=tokens).map(|i| (i.wrapping_mul(0x7fff_ffff) % vocab) as u32).collect();
        let feed_all = |session: &mut Session<Backend>, ids: &[u32]| {
            session.truncate(0);
            let last: Vec<usize> = ids.len().checked_sub(1).into_iter().collect();
            feed(session, ids, &last, &self.cancel)?;
            session.model().backend().synchronize().map_err(Failure::from)
        };
        feed_all(&mut self.session, ids.get(..WARM_UP).unwrap_or(&ids))?;
        let session = &mut self.session;
        let seconds = repeated(self.repeat, || {
            let start = Instant::now();
            feed_all(session, &ids)?;
            Ok(vec![start.elapsed().as_secs_f64()])
        })?;
        let flops = prompt_flops(&session.model().config().shape, tokens);
        let fits = tokens < self.session.context();
        let first_token_seconds = if fits { self.first_token(&ids)? } else { Vec::new() };
        Ok(Prompt::new(tokens, flops, seconds, first_token_seconds))
    }

    /// Seconds from the call to the first token of an answer, with all that the host does for it.
    fn first_token(&mut self, ids: &[u32]) -> Result<Vec<f64>, Failure> {
        let options = GenerateOptions {
            max_tokens: 1,
            ignore_eos: true,
            cancel: Some(self.cancel.clone()),
            ..GenerateOptions::default()
        };
        let session = &mut self.session;
        let mut once = || {
            session.truncate(0);
            let start = Instant::now();
            let token = session.generate_ids(ids, &options)?.next().transpose()?;
            token.ok_or(Failure::Interrupted)?;
            Ok(vec![start.elapsed().as_secs_f64()])
        };
        once()?;
        repeated(self.repeat, once)
    }

    /// Times `generate` decoding steps at this depth.
    ///
    /// # Errors
    /// [`Failure::Interrupted`], and those of the session.
    pub(crate) fn decode(&mut self, depth: usize, generate: usize) -> Result<Decode, Failure> {
        let backend = self.session.model().backend().clone();
        let (session, cancel) = (&mut self.session, &self.cancel);
        let options = GenerateOptions {
            // The first token comes from feeding the prompt's one id, not from a decoding step.
            max_tokens: generate.saturating_add(1),
            ignore_eos: true,
            cancel: Some(cancel.clone()),
            ..GenerateOptions::default()
        };
        let mut counted = PerStep::default();
        session.fill_random(depth, 1)?;
        let warm = GenerateOptions { max_tokens: WARM_STEPS.min(options.max_tokens), ..options.clone() };
        session.generate_ids(&[0], &warm)?.try_for_each(|token| token.map(drop))?;
        let seconds = repeated(self.repeat, || {
            session.fill_random(depth, 1)?;
            backend.synchronize()?;
            let mut generation = session.generate_ids(&[0], &options)?;
            generation.next().transpose()?;
            let before = backend.counters();
            let mut last = Instant::now();
            let mut seconds = Vec::with_capacity(generate);
            let progress = Progress::counting("decoding");
            for token in generation {
                token?;
                let now = Instant::now();
                seconds.push((now - last).as_secs_f64());
                progress.set(seconds.len() as u64, generate as u64);
                last = Instant::now();
            }
            progress.finish();
            if cancel.load(Relaxed) {
                return Err(Failure::Interrupted);
            }
            counted = per_step(before, backend.counters(), seconds.len());
            Ok(seconds)
        })?;
        let shape = &session.model().config().shape;
        let element = |dtype: torchless::DType| dtype.bytes(1).unwrap_or(0) as u64;
        let weight_bytes = weights_read(shape).saturating_mul(element(session.model().dtype()));
        let middle = depth.saturating_add(1 + generate / 2);
        let attended = shape.sliding_window.map_or(middle, |window| window.min(middle)) as u64;
        let kv_row = 2 * shape.n_layers as u64 * shape.n_kv_heads as u64 * shape.head_dim as u64;
        let kv_bytes = kv_row.saturating_mul(element(session.model().kv_dtype())).saturating_mul(attended);
        Ok(Decode::new(depth, weight_bytes.saturating_add(kv_bytes), seconds, counted))
    }
}

/// Weights that one decoding step reads: all of them, but of an embedding table that is not also the output projection
/// only a row.
fn weights_read(shape: &torchless::ModelShape) -> u64 {
    let unread = if shape.tie_word_embeddings { 0 } else { shape.vocab_size.saturating_sub(1) };
    shape.parameters().saturating_sub((unread as u64).saturating_mul(shape.hidden_size as u64))
}

fn per_step(before: Counters, after: Counters, steps: usize) -> PerStep {
    let of = |before: u64, after: u64| after.saturating_sub(before) as f64 / steps.max(1) as f64;
    PerStep {
        launches: of(before.launches, after.launches),
        replays: of(before.replays, after.replays),
        allocations: of(before.allocations, after.allocations),
        writes: of(before.writes, after.writes),
        reads: of(before.reads, after.reads),
    }
}

/// All samples of a measurement that is made once or more often.
fn repeated(
    repeat: Option<usize>,
    mut measure: impl FnMut() -> Result<Vec<f64>, Failure>,
) -> Result<Vec<f64>, Failure> {
    let start = Instant::now();
    let mut samples = measure()?;
    for done in 1..repeat.unwrap_or(REPEAT) {
        let next = start.elapsed() / done as u32;
        if repeat.is_none() && start.elapsed() + next > PATIENCE {
            break;
        }
        samples.extend(measure()?);
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use torchless::ModelShape;

    use super::*;

    #[test]
    fn a_step_reads_all_weights_but_the_embedding_table() {
        let tiny = ModelShape::named("tiny-shakespeare").unwrap();
        assert_eq!(weights_read(&tiny), tiny.parameters() - 1023 * 256);
        let tied = ModelShape::named("llama-3.2-1b").unwrap();
        assert_eq!(weights_read(&tied), tied.parameters());
    }

    #[test]
    fn repetitions_are_as_many_as_asked_for() {
        for (repeat, expected) in [(Some(1), 1), (Some(5), 5), (None, 3)] {
            assert_eq!(repeated(repeat, || Ok(vec![0.0])).unwrap().len(), expected);
        }
    }
}
