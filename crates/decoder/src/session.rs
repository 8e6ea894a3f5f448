//! A conversation: the KV cache and what has been fed into it.

use std::collections::BTreeMap;
use std::ops::Range;

use backend_api::ops::{Argmax, Sample, SampleParams};
use backend_api::{At, DType, Error, KernelBackend, Mat, MatMut, Op, Pending, Result};

use crate::Model;
use crate::forward::{Activations, Cache, Forward};
use crate::rope::{fill_table, inverse_frequencies};

/// A KV cache of fixed size and the tokens in it. It keeps its model alive.
///
/// Tokens are fed once: what a later call adds continues where the last one ended.
pub struct Session<B: KernelBackend> {
    model: Model<B>,
    context: usize,
    /// All tokens so far; those from `cached` on are not in the cache.
    tokens: Vec<u32>,
    cached: usize,
    act: Activations<B::Tensor>,
    cache: Cache<B::Tensor>,
    device: Ids<B::Tensor>,
    graph: B::Graph,
    /// What the captured step ends with and how many rows of the cache it looks through; others need another graph.
    captured: Option<(Choice, usize)>,
    /// Captured chunks of a prompt, by their rows, and how often one was issued before.
    chunks: BTreeMap<usize, (u32, B::Graph)>,
}

/// How often chunks of a length are issued before it counts as one that comes back: a capture takes as long as several replays
/// save.
const ISSUED_BEFORE_CAPTURE: u32 = 2;

/// Rows of the cache that a step looks through while they suffice; then twice as many, and so on. Each number needs a graph of
/// its own, which is captured within two steps.
const FIRST_KEYS: usize = 4096;

/// Ids and positions on the device, u32.
struct Ids<T> {
    /// A prompt chunk's.
    ids: T,
    positions: T,
    /// The next step's, written by the step before.
    id: T,
    position: T,
    /// By position; up to date where a repetition penalty asks for it.
    history: T,
}

/// How a step ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Choice {
    /// With logits.
    Logits,
    /// With the most likely id.
    Greedy,
    /// With an id by chance, or after a penalty.
    Sample(SampleParams),
}

impl Choice {
    pub(crate) fn of(params: &SampleParams) -> Self {
        let greedy = params.temperature == 0.0 && params.repetition_penalty == 1.0;
        if greedy { Self::Greedy } else { Self::Sample(*params) }
    }
}

impl<B: KernelBackend> std::fmt::Debug for Session<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("context", &self.context)
            .field("tokens", &self.tokens.len())
            .field("cached", &self.cached)
            .finish_non_exhaustive()
    }
}

impl<B: KernelBackend> Session<B> {
    pub(crate) fn new(model: Model<B>, context: usize) -> Result<Self> {
        let (b, config) = (model.backend().clone(), model.config().clone());
        let limit = config.shape.max_position_embeddings;
        if !(1..=limit).contains(&context) {
            let reason = format!("{context} is not between 1 and the model's maximum, {limit}");
            return Err(Error::Argument { name: "context", reason });
        }
        let (heads, shape) = (config.heads(), &config.shape);
        let rows = model.prefill_chunk().min(context);
        let activation = |cols: usize| b.alloc(&[rows, cols], model.activation_dtype());
        let attended = |cols: usize| b.alloc(&[rows, cols], model.attention_dtype());
        let act = Activations {
            x: b.alloc(&[rows, shape.hidden_size], DType::F32)?,
            h: activation(shape.hidden_size)?,
            qkv: attended(heads.qkv_dim())?,
            att: attended(heads.q_dim())?,
            gate_up: activation(2 * shape.intermediate_size)?,
            ffn: activation(shape.intermediate_size)?,
            scores: b.alloc(&[heads.n_heads, context], DType::F32)?,
            logits: b.alloc(&[1, shape.vocab_size], DType::F32)?,
        };
        let frequencies = inverse_frequencies(&config);
        let table = |f: fn(f64) -> f64| {
            b.upload(&[context, heads.head_dim / 2], DType::F32, &|offset, out| {
                fill_table(&frequencies, f, offset, out);
                Ok(())
            })
        };
        let half = || b.alloc(&[context, heads.kv_dim()], model.kv_dtype());
        let kv = (0..shape.n_layers).map(|_| Ok((half()?, half()?))).collect::<Result<_>>()?;
        let cache = Cache { kv, keys: context, cos: table(f64::cos)?, sin: table(f64::sin)? };
        let ids = |n: usize| b.alloc(&[n], DType::U32);
        let device = Ids {
            ids: ids(rows)?,
            positions: ids(rows)?,
            id: ids(1)?,
            position: ids(1)?,
            history: ids(context)?,
        };
        let (tokens, graph, chunks) = (Vec::new(), B::Graph::default(), BTreeMap::new());
        Ok(Self { model, context, tokens, cached: 0, act, cache, device, graph, captured: None, chunks })
    }

    /// The model.
    pub fn model(&self) -> &Model<B> {
        &self.model
    }

    /// Positions of the cache.
    pub fn context(&self) -> usize {
        self.context
    }

    /// All tokens so far, prompts and answers.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many tokens are in the cache; the others are fed by the next call.
    pub fn cached(&self) -> usize {
        self.cached.min(self.tokens.len())
    }

    /// Forgets the tokens from `len` on, so that the next call continues there.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.cached = self.cached.min(self.tokens.len());
    }

    /// Feeds `ids` as a batch, in chunks, and gives the logits of those positions of the conversation that `wanted` names.
    /// Positions before the first token that is fed by this call have no logits any more.
    ///
    /// # Errors
    /// [`Error::Argument`] for an id outside the vocabulary or a position that is not fed, [`Error::ContextFull`].
    pub fn logits(&mut self, ids: &[u32], wanted: &[usize]) -> Result<Vec<Vec<f32>>> {
        self.forget_step();
        let fed = self.cached..self.tokens.len().saturating_add(ids.len());
        if let Some(position) = wanted.iter().find(|p| !fed.contains(p)) {
            let reason = format!("{position} is not among the positions fed now, {fed:?}");
            return Err(Error::Argument { name: "wanted", reason });
        }
        self.extend(ids)?;
        let span =
            wanted.iter().min().map_or(0..0, |first| *first..wanted.iter().max().map_or(0, |last| last + 1));
        let mut rows = vec![Vec::new(); wanted.len()];
        while self.cached < self.tokens.len() {
            let first = self.cached;
            let n = self.feed_chunk(span.clone())?;
            for (row, position) in rows.iter_mut().zip(wanted) {
                if (first..first + n).contains(position) {
                    self.forward_logits(position - first)?;
                    *row = self.read_logits()?;
                }
            }
        }
        Ok(rows)
    }

    /// Feeds one token through the decoding step and gives its logits.
    ///
    /// # Errors
    /// As [`Session::logits`].
    pub fn step_logits(&mut self, id: u32) -> Result<Vec<f32>> {
        self.forget_step();
        self.feed_all()?;
        self.extend(&[id])?;
        let position = self.cached as u32;
        self.model.backend().write(&mut self.device.id, 0, bytemuck::bytes_of(&id))?;
        self.model.backend().write(&mut self.device.position, 0, bytemuck::bytes_of(&position))?;
        self.step(Choice::Logits)?;
        self.read_logits()
    }

    /// Fills the cache up to `depth` with random keys and values, for benchmarks of decoding at that depth.
    ///
    /// # Errors
    /// [`Error::ContextFull`].
    pub fn fill_random(&mut self, depth: usize, seed: u64) -> Result<()> {
        if depth > self.context {
            return Err(Error::ContextFull { context: self.context, needed: depth });
        }
        self.truncate(0);
        self.extend(&vec![0; depth])?;
        for (seed, (k, v)) in (seed..).step_by(2).zip(&mut self.cache.kv) {
            self.model.backend().fill_random(k, seed, 1.0)?;
            self.model.backend().fill_random(v, seed + 1, 1.0)?;
        }
        self.cached = depth;
        Ok(())
    }

    /// Adds tokens to the conversation without feeding them.
    pub(crate) fn extend(&mut self, ids: &[u32]) -> Result<()> {
        let vocab = self.model.config().shape.vocab_size;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
            let reason = format!("{id} is outside the vocabulary of {vocab}");
            return Err(Error::Argument { name: "token id", reason });
        }
        let needed = self.tokens.len().saturating_add(ids.len());
        if needed > self.context {
            return Err(Error::ContextFull { context: self.context, needed });
        }
        self.tokens.extend(ids);
        Ok(())
    }

    /// Where nothing is left to feed, the last token must be fed again before a token can be chosen after it.
    pub(crate) fn refeed_last(&mut self) {
        self.cached = self.cached.min(self.tokens.len().saturating_sub(1));
    }

    /// Feeds all tokens that are not in the cache yet.
    pub(crate) fn feed_all(&mut self) -> Result<()> {
        while self.cached < self.tokens.len() {
            self.feed_chunk(0..0)?;
        }
        Ok(())
    }

    /// Feeds the next chunk of tokens; gives how many. Rows of `x`, counted from the chunk's first token on, then hold the
    /// state of those whose positions are `wanted`.
    pub(crate) fn feed_chunk(&mut self, wanted: Range<usize>) -> Result<usize> {
        let first = self.cached;
        let n = (self.tokens.len() - first).min(self.model.prefill_chunk());
        let most = self.model.prefill_chunk().min(self.context);
        let b = self.model.backend().clone();
        let padded = b.chunk_rows(n).filter(|rows| (n..=most.min(self.context - first)).contains(rows));
        let rows = padded.unwrap_or(n);
        let positions: Vec<u32> = (first..first + rows).map(|p| p as u32).collect();
        // What is captured must not depend on how many of the rows are padding.
        let row = |position: usize| position.clamp(first, first + n) - first;
        let wanted_rows = padded.map_or(row(wanted.start)..row(wanted.end), |rows| 0..rows);
        let mut ids = self.tokens[first..first + n].to_vec();
        ids.resize(rows, 0);
        b.write(&mut self.device.ids, 0, bytemuck::cast_slice(&ids))?;
        b.write(&mut self.device.positions, 0, bytemuck::cast_slice(&positions))?;
        let Self { model, act, cache, device, chunks, context, .. } = self;
        cache.keys = *context;
        let mut layers = |b: &B, first| {
            let ids = Mat::vector(&device.ids).cols(0..rows)?;
            let positions = Mat::vector(&device.positions).cols(0..rows)?;
            let at = At { positions, first, distinct: true };
            forward(b, model).layers(ids, at, wanted_rows.clone(), act, cache)
        };
        match padded.map(|rows| chunks.entry(rows).or_default()) {
            Some((uses, graph)) if *uses >= ISSUED_BEFORE_CAPTURE => {
                b.step(graph, first, &mut |b, first| layers(b, first))?
            }
            Some((uses, _)) => {
                *uses += 1;
                layers(&b, Some(first))?;
            }
            None => layers(&b, Some(first))?,
        }
        self.cached += n;
        Ok(n)
    }

    fn forward_logits(&mut self, row: usize) -> Result<()> {
        forward(&**self.model.backend(), &self.model).logits(row, &mut self.act)
    }

    /// Chooses the token after the chunk of `n` rows that was fed last, on the device.
    pub(crate) fn choose_after_chunk(&mut self, n: usize, choice: Choice) -> Result<()> {
        let last = (self.cached - 1) as u32;
        let b = self.model.backend();
        b.write(&mut self.device.position, 0, bytemuck::bytes_of(&last))?;
        if let Choice::Sample(_) = choice {
            b.write(&mut self.device.history, 0, bytemuck::cast_slice(&self.tokens))?;
        }
        self.forward_logits(n - 1)?;
        choose(&**self.model.backend(), choice, &self.act.logits, &mut self.device)
    }

    /// Feeds the token that the last choice left on the device, and chooses the next one there.
    pub(crate) fn step(&mut self, choice: Choice) -> Result<()> {
        let Self { model, act, cache, device, graph, captured, cached, context, .. } = self;
        cache.keys = (*cached + 1).next_power_of_two().max(FIRST_KEYS).min(*context);
        let ends = Some((choice, cache.keys));
        if *captured != ends {
            *graph = B::Graph::default();
        }
        model.backend().step(graph, *cached, &mut |b, first| {
            let pass = forward(b, model);
            let at = At { positions: Mat::vector(&device.position), first, distinct: false };
            pass.layers(Mat::vector(&device.id), at, 0..1, act, cache)?;
            pass.logits(0, act)?;
            choose(b, choice, &act.logits, device)
        })?;
        *captured = ends;
        *cached += 1;
        Ok(())
    }

    /// Starts to read the id that the last choice left on the device.
    pub(crate) fn read_choice(&self) -> Result<Chosen> {
        let pending = self.model.backend().read_later(&self.device.id, 0, size_of::<u32>())?;
        Ok(Chosen { pending, position: self.cached.saturating_sub(1) })
    }

    /// Waits for the id.
    pub(crate) fn chosen(&self, chosen: Chosen) -> Result<u32> {
        let id = chosen.pending.wait()?.try_into().map_or(u32::MAX, u32::from_le_bytes);
        if id as usize >= self.model.config().shape.vocab_size {
            return Err(Error::NonFinite { position: chosen.position });
        }
        Ok(id)
    }

    /// Forgets a step that was queued ahead and fed a token which then did not become part of the conversation.
    pub(crate) fn forget_step(&mut self) {
        self.cached = self.cached.min(self.tokens.len());
    }

    fn read_logits(&self) -> Result<Vec<f32>> {
        let mut logits = vec![0.0f32; self.model.config().shape.vocab_size];
        self.model.backend().read(&self.act.logits, 0, bytemuck::cast_slice_mut(&mut logits))?;
        Ok(logits)
    }
}

/// An id on its way from the device.
pub(crate) struct Chosen {
    pending: Pending,
    position: usize,
}

impl Chosen {
    /// Whether the device goes on while the host waits.
    pub(crate) fn is_later(&self) -> bool {
        matches!(self.pending, Pending::Later(_))
    }
}

/// The model on `b`, which within a step is that step's backend.
fn forward<'m, B: KernelBackend>(b: &'m B, model: &'m Model<B>) -> Forward<'m, B> {
    Forward { backend: b, config: model.config(), weights: model.tensors() }
}

fn choose<B: KernelBackend>(
    b: &B,
    choice: Choice,
    logits: &B::Tensor,
    device: &mut Ids<B::Tensor>,
) -> Result<()> {
    let (logits, id, position) =
        (Mat::new(logits), MatMut::vector(&mut device.id), MatMut::vector(&mut device.position));
    match choice {
        Choice::Logits => Ok(()),
        Choice::Greedy => b.argmax_into(Argmax { logits, id, position: Some(position) }.check()?),
        Choice::Sample(params) => {
            let history = MatMut::vector(&mut device.history);
            b.sample_into(Sample { logits, history, id, position, params }.check()?)
        }
    }
}
