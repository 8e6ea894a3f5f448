//! The walk over a model's tensors while they are loaded.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use backend_api::{DType, Error, Result};

use crate::model::{Layer, Tensors};
use crate::weights::Weights;
use crate::{Config, LoadOptions, LoadReport};

/// A stored tensor that makes up some rows of one on the device.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
}

/// Walks over a model's tensors, and counts what is done.
pub(crate) struct Loader<'o> {
    config: &'o Config,
    options: &'o LoadOptions,
    total: u64,
    done: AtomicU64,
    start: Instant,
}

impl<'o> Loader<'o> {
    pub(crate) fn new(config: &'o Config, dtype: DType, options: &'o LoadOptions) -> Result<Self> {
        let element = dtype.bytes(1).unwrap_or(0) as u64;
        let total = config.shape.parameters().saturating_mul(element);
        Ok(Self { config, options, total, done: AtomicU64::new(0), start: Instant::now() })
    }

    pub(crate) fn advance(&self, bytes: usize) -> Result<()> {
        if self.options.cancel.as_ref().is_some_and(|c| c.load(Relaxed)) {
            return Err(Error::Cancelled);
        }
        let done = self.done.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        if let Some(progress) = &self.options.progress {
            progress(done, self.total);
        }
        Ok(())
    }

    pub(crate) fn report(&self) -> LoadReport {
        LoadReport { bytes: self.done.load(Relaxed), seconds: self.start.elapsed().as_secs_f64() }
    }

    /// Makes every tensor with `make(shape, parts)`, the parts being those that are stored.
    pub(crate) fn tensors<T>(&self, make: impl Fn(&[usize], &[Part]) -> Result<T>) -> Result<Tensors<T>> {
        let (s, heads) = (&self.config.shape, self.config.heads());
        let (hidden, ffn, vocab) = (s.hidden_size, s.intermediate_size, s.vocab_size);
        let stack = |prefix: &str, cols: usize, rows: &[(&str, usize)]| {
            let part = |(name, rows): &(&str, usize)| Part {
                name: format!("{prefix}{name}.weight"),
                shape: vec![*rows, cols],
            };
            let parts: Vec<Part> = rows.iter().map(part).collect();
            make(&[rows.iter().map(|r| r.1).sum(), cols], &parts)
        };
        let vector = |name: String| make(&[hidden], &[Part { name, shape: vec![hidden] }]);
        let layer = |i: usize| {
            let p = format!("model.layers.{i}.");
            let (q, kv) = (heads.q_dim(), heads.kv_dim());
            let of_qkv = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
            Ok(Layer {
                attention_norm: vector(format!("{p}input_layernorm.weight"))?,
                qkv: stack(&p, hidden, &of_qkv)?,
                o: stack(&p, q, &[("self_attn.o_proj", hidden)])?,
                ffn_norm: vector(format!("{p}post_attention_layernorm.weight"))?,
                gate_up: stack(&p, hidden, &[("mlp.gate_proj", ffn), ("mlp.up_proj", ffn)])?,
                down: stack(&p, ffn, &[("mlp.down_proj", hidden)])?,
            })
        };
        let untied = !s.tie_word_embeddings;
        Ok(Tensors {
            embed: stack("model.", hidden, &[("embed_tokens", vocab)])?,
            layers: (0..s.n_layers).map(layer).collect::<Result<_>>()?,
            norm: vector("model.norm.weight".into())?,
            lm_head: untied.then(|| stack("", hidden, &[("lm_head", vocab)])).transpose()?,
        })
    }
}

/// Names of the tensors that a model of this config stores.
pub(crate) fn stored_names(config: &Config) -> Result<BTreeSet<String>> {
    let options = LoadOptions::default();
    let known = RefCell::new(BTreeSet::new());
    Loader::new(config, DType::F32, &options)?.tensors(|_, parts| {
        known.borrow_mut().extend(parts.iter().map(|p| p.name.clone()));
        Ok(())
    })?;
    Ok(known.into_inner())
}

/// Reads bytes `offset..` of several stored tensors that stand one after the other; `spans` holds the end of each.
pub(crate) fn read_spans(
    weights: &Weights,
    dtype: DType,
    spans: &[(usize, &str)],
    mut offset: usize,
    mut out: &mut [u8],
) -> Result<()> {
    let mut start = 0;
    for (end, name) in spans {
        let take = end.saturating_sub(offset).min(out.len());
        if take > 0 {
            let (part, rest) = out.split_at_mut(take);
            weights.read(name, dtype, offset - start, part)?;
            (out, offset) = (rest, offset + take);
        }
        start = *end;
    }
    Ok(())
}
