use crate::{EstimateError, layout};
use serde::Serialize;

/// Largest `max_position_embeddings` accepted: positions are u32 on the device.
pub const MAX_POSITIONS: usize = u32::MAX as usize;

/// The dimensions of a decoder model of the Mistral or Llama family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelShape {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub n_layers: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head; need not be `hidden_size / n_heads`.
    pub head_dim: usize,
    /// Whether the output projection is the embedding table.
    pub tie_word_embeddings: bool,
    /// Longest context that the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// How many tokens a token attends to; `None` is all of them.
    pub sliding_window: Option<usize>,
}

/// The shapes that can be asked for by name, without a model at hand.
pub static NAMED_SHAPES: &[(&str, ModelShape)] = &[
    (
        "mistral-7b",
        ModelShape {
            hidden_size: 4096,
            intermediate_size: 14336,
            n_layers: 32,
            vocab_size: 32000,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 128,
            tie_word_embeddings: false,
            max_position_embeddings: 32768,
            sliding_window: None,
        },
    ),
    (
        "llama-3.1-8b",
        ModelShape {
            hidden_size: 4096,
            intermediate_size: 14336,
            n_layers: 32,
            vocab_size: 128_256,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 128,
            tie_word_embeddings: false,
            max_position_embeddings: 131_072,
            sliding_window: None,
        },
    ),
    (
        "llama-3.2-1b",
        ModelShape {
            hidden_size: 2048,
            intermediate_size: 8192,
            n_layers: 16,
            vocab_size: 128_256,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 64,
            tie_word_embeddings: true,
            max_position_embeddings: 131_072,
            sliding_window: None,
        },
    ),
    (
        "tiny-shakespeare",
        ModelShape {
            hidden_size: 256,
            intermediate_size: 704,
            n_layers: 4,
            vocab_size: 1024,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 64,
            tie_word_embeddings: false,
            max_position_embeddings: 1024,
            sliding_window: None,
        },
    ),
];

// With these caps the widest product, n_layers · (n_heads + 2·n_kv_heads) · head_dim · hidden_size,
// is at most 3·2^56 and all weights together are below 2^59, so below 2^61 bytes in f32.
const MAX_HIDDEN_SIZE: usize = 1 << 20;
const MAX_INTERMEDIATE_SIZE: usize = 1 << 22;
const MAX_LAYERS: usize = 1 << 12;
const MAX_VOCAB_SIZE: usize = 1 << 24;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 12;

impl ModelShape {
    /// The shape of this name, one of [`ModelShape::names`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        NAMED_SHAPES.iter().find(|(known, _)| *known == name).map(|(_, shape)| shape.clone())
    }

    /// The names that [`ModelShape::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMED_SHAPES.iter().map(|(name, _)| *name)
    }

    /// Checks that a decoder can have this shape: every dimension between 1 and its cap, `n_kv_heads`
    /// a divisor of `n_heads`, `head_dim` even (the rotary embedding pairs its halves).
    ///
    /// # Errors
    /// [`EstimateError::Invalid`] names the first field that fails.
    pub fn validate(&self) -> Result<(), EstimateError> {
        between("hidden_size", self.hidden_size, MAX_HIDDEN_SIZE)?;
        between("intermediate_size", self.intermediate_size, MAX_INTERMEDIATE_SIZE)?;
        between("n_layers", self.n_layers, MAX_LAYERS)?;
        between("vocab_size", self.vocab_size, MAX_VOCAB_SIZE)?;
        between("n_heads", self.n_heads, MAX_HEADS)?;
        between("n_kv_heads", self.n_kv_heads, MAX_HEADS)?;
        between("head_dim", self.head_dim, MAX_HEAD_DIM)?;
        between("max_position_embeddings", self.max_position_embeddings, MAX_POSITIONS)?;
        if let Some(window) = self.sliding_window {
            between("sliding_window", window, usize::MAX)?;
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let requirement = format!("must divide n_heads, which is {}", self.n_heads);
            return Err(EstimateError::Invalid { field: "n_kv_heads", value: self.n_kv_heads, requirement });
        }
        if !self.head_dim.is_multiple_of(2) {
            let requirement = "must be even: the rotary embedding pairs its halves".to_owned();
            return Err(EstimateError::Invalid { field: "head_dim", value: self.head_dim, requirement });
        }
        Ok(())
    }

    /// Number of parameters, norms included; tied embeddings count once.
    ///
    /// Saturates at `u64::MAX`, which a shape that passes [`ModelShape::validate`] never reaches.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        layout::weights(self)
            .and_then(|items| {
                items
                    .iter()
                    .try_fold(0_u64, |sum, item| sum.checked_add(item.buffers.checked_mul(item.elements)?))
            })
            .unwrap_or(u64::MAX)
    }
}

/// Refuses a value outside `1..=most`.
pub(crate) fn between(field: &'static str, value: usize, most: usize) -> Result<(), EstimateError> {
    if value == 0 {
        return Err(EstimateError::Invalid { field, value, requirement: "must be at least 1".to_owned() });
    }
    if value > most {
        return Err(EstimateError::Invalid { field, value, requirement: format!("must be at most {most}") });
    }
    Ok(())
}
