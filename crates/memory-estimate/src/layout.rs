//! What the decoder allocates: the only place that knows it.

use crate::{EstimateRequest, ModelShape, WeightDtype};
use serde::Serialize;

/// The line of the estimate that a buffer is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// The token embedding table.
    Embeddings,
    /// The output projection, absent when tied.
    LmHead,
    /// Query, key, value and output projections.
    Attention,
    /// Gate, up and down projections.
    Mlp,
    /// RMS norm weights.
    Norms,
    /// Cosines and sines of the rotary embedding.
    RopeTables,
    /// Keys and values of the context.
    KvCache,
    /// What one chunk of tokens passes through, logits and ids included.
    Activations,
    /// Scratch of the attention.
    Workspace,
}

/// What a buffer's elements are, and so how wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ElementKind {
    /// Stored in the weights' dtype.
    Weight,
    /// Stored in the KV cache's dtype.
    Cache,
    /// Stored in the width of the activations: what lies between the residual stream and the logits.
    Activation,
    /// Stored as activations where weights and cache have one type, and in f32 otherwise: queries, and what attention gives.
    Attention,
    /// Always f32.
    F32,
    /// Always u32.
    U32,
}

impl ElementKind {
    /// Bytes of one element under the dtypes of `request`.
    #[must_use]
    pub fn bytes(self, request: &EstimateRequest<'_>) -> u64 {
        match self {
            Self::Weight => request.dtype.bytes(),
            Self::Cache => request.kv_dtype.bytes(),
            Self::Attention if request.kv_dtype != request.dtype => WeightDtype::F32.bytes(),
            Self::Activation | Self::Attention => request.activation_bytes as u64,
            Self::F32 | Self::U32 => WeightDtype::F32.bytes(),
        }
    }
}

/// A group of equal buffers: `buffers` allocations of `elements` each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Item {
    /// Name of the buffer.
    pub name: &'static str,
    /// The line of the estimate that it is counted under.
    pub part: Part,
    /// How many there are: one per layer, per session, or both.
    pub buffers: u64,
    /// Elements in each.
    pub elements: u64,
    /// What the elements are.
    pub kind: ElementKind,
}

impl Item {
    /// Bytes of all buffers of the group; `None` beyond 64 bits.
    #[must_use]
    pub fn bytes(&self, request: &EstimateRequest<'_>) -> Option<u64> {
        self.buffers.checked_mul(self.elements)?.checked_mul(self.kind.bytes(request))
    }
}

/// Widths that follow from the heads and the feed-forward layer.
struct Widths {
    q: usize,
    kv: usize,
    qkv: usize,
    gate_up: usize,
}

impl Widths {
    fn of(shape: &ModelShape) -> Option<Self> {
        let q = shape.n_heads.checked_mul(shape.head_dim)?;
        let kv = shape.n_kv_heads.checked_mul(shape.head_dim)?;
        let qkv = kv.checked_mul(2)?.checked_add(q)?;
        Some(Self { q, kv, qkv, gate_up: shape.intermediate_size.checked_mul(2)? })
    }
}

/// The weights, held once whatever the batch; `None` when a count exceeds 64 bits.
pub(crate) fn weights(shape: &ModelShape) -> Option<Vec<Item>> {
    use ElementKind::Weight;
    let Widths { q, qkv, gate_up, .. } = Widths::of(shape)?;
    let &ModelShape { hidden_size: hidden, intermediate_size: ffn, n_layers: layers, .. } = shape;
    let vocab = shape.vocab_size;
    let lm_heads = usize::from(!shape.tie_word_embeddings);
    collect(&[
        ("embed", Part::Embeddings, &[1], &[vocab, hidden], Weight),
        ("lm_head", Part::LmHead, &[lm_heads], &[vocab, hidden], Weight),
        ("qkv_proj", Part::Attention, &[layers], &[qkv, hidden], Weight),
        ("o_proj", Part::Attention, &[layers], &[hidden, q], Weight),
        ("gate_up_proj", Part::Mlp, &[layers], &[gate_up, hidden], Weight),
        ("down_proj", Part::Mlp, &[layers], &[hidden, ffn], Weight),
        ("layer_norms", Part::Norms, &[layers, 2], &[hidden], Weight),
        ("final_norm", Part::Norms, &[1], &[hidden], Weight),
    ])
}

/// What each of the `batch` sessions allocates; `None` when a count exceeds 64 bits.
pub(crate) fn sessions(request: &EstimateRequest<'_>) -> Option<Vec<Item>> {
    use ElementKind::{Activation, Attention, Cache, F32, U32};
    use Part::{Activations, KvCache, RopeTables, Workspace};
    let shape = request.shape;
    let Widths { q, kv, qkv, gate_up } = Widths::of(shape)?;
    let &ModelShape { hidden_size: hidden, intermediate_size: ffn, n_layers: layers, .. } = shape;
    let (batch, context) = (request.batch, request.context);
    let rows = request.prefill_chunk.min(context);
    collect(&[
        ("rope_cos_sin", RopeTables, &[batch, 2], &[context, shape.head_dim / 2], F32),
        ("kv_cache", KvCache, &[batch, layers, 2], &[context, kv], Cache),
        ("x", Activations, &[batch], &[rows, hidden], F32),
        ("h", Activations, &[batch], &[rows, hidden], Activation),
        ("qkv", Activations, &[batch], &[rows, qkv], Attention),
        ("att", Activations, &[batch], &[rows, q], Attention),
        ("gate_up", Activations, &[batch], &[rows, gate_up], Activation),
        ("ffn", Activations, &[batch], &[rows, ffn], Activation),
        ("logits", Activations, &[batch], &[1, shape.vocab_size], F32),
        ("ids", Activations, &[batch], &[rows], U32),
        ("positions", Activations, &[batch], &[rows], U32),
        ("next_id_and_position", Activations, &[batch, 2], &[1], U32),
        ("history", Activations, &[batch], &[1, context], U32),
        ("attention_scores", Workspace, &[batch], &[shape.n_heads, context], F32),
    ])
}

/// Name, part, factors of the number of buffers, dimensions of each, element kind.
type Line<'a> = (&'static str, Part, &'a [usize], &'a [usize], ElementKind);

fn collect(lines: &[Line<'_>]) -> Option<Vec<Item>> {
    let item = |&(name, part, buffers, dims, kind): &Line<'_>| {
        Some(Item { name, part, buffers: product(buffers)?, elements: product(dims)?, kind })
    };
    lines.iter().map(item).collect()
}

fn product(factors: &[usize]) -> Option<u64> {
    factors.iter().try_fold(1_u64, |product, &factor| product.checked_mul(u64::try_from(factor).ok()?))
}
