use crate::shape::between;
use crate::{EstimateError, Item, ModelShape, Part, layout};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::fmt;

const MIB: f64 = 1_048_576.0;

/// Bytes as MiB, for people.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

/// How weights, or keys and values, are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WeightDtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl WeightDtype {
    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// `f32`, `f16` or `bf16`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for WeightDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How a device accounts for its memory.
pub trait Accounting {
    /// Bytes that a buffer of `bytes` bytes takes, rounding included.
    fn taken(&self, bytes: u64) -> u64 {
        bytes
    }

    /// Bytes that are held beside the buffers while a model runs as this request says.
    fn overhead(&self, _request: &EstimateRequest<'_>) -> u64 {
        0
    }
}

/// The accounting of a device where a buffer takes its bytes, and nothing else takes any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exact;

impl Accounting for Exact {}

/// A model and how it is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EstimateRequest<'a> {
    /// The model.
    pub shape: &'a ModelShape,
    /// Storage of the weights.
    pub dtype: WeightDtype,
    /// Storage of keys and values.
    pub kv_dtype: WeightDtype,
    /// Tokens that a session can hold, prompt and answer together.
    pub context: usize,
    /// Independent sessions that share the weights.
    pub batch: usize,
    /// Prompt tokens that pass through the model at once; more than `context` counts as `context`.
    pub prefill_chunk: usize,
    /// Width of an activation in bytes, the residual stream and the logits aside, which are f32. The CPU keeps all in
    /// f32, so 4.
    pub activation_bytes: usize,
}

impl EstimateRequest<'_> {
    /// Every group of buffers that the decoder allocates for this request.
    ///
    /// # Errors
    /// [`EstimateError::Invalid`] for a shape that fails [`ModelShape::validate`], a zero in the
    /// request or activations wider than 8 bytes; [`EstimateError::Overflow`] beyond 64 bits.
    pub fn items(&self) -> Result<Vec<Item>, EstimateError> {
        self.shape.validate()?;
        between("context", self.context, usize::MAX)?;
        between("batch", self.batch, usize::MAX)?;
        between("prefill_chunk", self.prefill_chunk, usize::MAX)?;
        between("activation_bytes", self.activation_bytes, 8)?;
        let mut items = layout::weights(self.shape).ok_or(EstimateError::Overflow)?;
        items.extend(layout::sessions(self).ok_or(EstimateError::Overflow)?);
        Ok(items)
    }

    /// What the request needs: the sum of [`EstimateRequest::items`] by part.
    ///
    /// # Errors
    /// As [`EstimateRequest::items`]; [`EstimateError::Overflow`] also when the total exceeds 64 bits.
    pub fn estimate(&self) -> Result<Estimate, EstimateError> {
        self.estimate_on(&Exact)
    }

    /// As [`EstimateRequest::estimate`], for a device that accounts so: each buffer with what it takes, and what is held
    /// beside them.
    ///
    /// # Errors
    /// As [`EstimateRequest::estimate`].
    pub fn estimate_on(&self, device: &dyn Accounting) -> Result<Estimate, EstimateError> {
        let items = self.items()?;
        let mut estimate = Estimate { backend: device.overhead(self), ..Estimate::default() };
        let mut total = estimate.backend;
        for item in items {
            let buffer = item.elements.checked_mul(item.kind.bytes(self)).ok_or(EstimateError::Overflow)?;
            let bytes = item.buffers.checked_mul(device.taken(buffer)).ok_or(EstimateError::Overflow)?;
            total = total.checked_add(bytes).ok_or(EstimateError::Overflow)?;
            *estimate.part_mut(item.part) += bytes;
        }
        Ok(estimate)
    }
}

/// What a model needs in memory, in bytes. JSON has the same names and `total`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Estimate {
    /// Token embedding table.
    pub embeddings: u64,
    /// Output projection; 0 when tied to the embeddings.
    pub lm_head: u64,
    /// Query, key, value and output projections of all layers.
    pub attention: u64,
    /// Gate, up and down projections of all layers.
    pub mlp: u64,
    /// RMS norm weights.
    pub norms: u64,
    /// Cosines and sines of the rotary embedding, all sessions.
    pub rope_tables: u64,
    /// Keys and values, all sessions.
    pub kv_cache: u64,
    /// Activations, logits and ids, all sessions.
    pub activations: u64,
    /// Attention scratch, all sessions.
    pub workspace: u64,
    /// What the backend holds for itself: 0 unless the estimate is for a device that says so.
    pub backend: u64,
}

impl Estimate {
    /// Bytes of the weights: embeddings, output projection, attention, feed-forward, norms.
    #[must_use]
    pub fn weights(&self) -> u64 {
        [self.embeddings, self.lm_head, self.attention, self.mlp, self.norms]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Bytes of everything.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.parts().into_iter().map(|(_, bytes)| bytes).fold(0, u64::saturating_add)
    }

    /// MiB of everything.
    #[must_use]
    pub fn total_mib(&self) -> f64 {
        mib(self.total())
    }

    /// Each part's name and bytes, in the order of the table.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, u64); 10] {
        [
            ("embeddings", self.embeddings),
            ("lm_head", self.lm_head),
            ("attention", self.attention),
            ("mlp", self.mlp),
            ("norms", self.norms),
            ("rope_tables", self.rope_tables),
            ("kv_cache", self.kv_cache),
            ("activations", self.activations),
            ("workspace", self.workspace),
            ("backend", self.backend),
        ]
    }

    fn part_mut(&mut self, part: Part) -> &mut u64 {
        match part {
            Part::Embeddings => &mut self.embeddings,
            Part::LmHead => &mut self.lm_head,
            Part::Attention => &mut self.attention,
            Part::Mlp => &mut self.mlp,
            Part::Norms => &mut self.norms,
            Part::RopeTables => &mut self.rope_tables,
            Part::KvCache => &mut self.kv_cache,
            Part::Activations => &mut self.activations,
            Part::Workspace => &mut self.workspace,
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, bytes) in self.parts() {
            writeln!(f, "{name:<12} {:>12.2} MiB", mib(bytes))?;
        }
        write!(f, "{:<12} {:>12.2} MiB", "total", self.total_mib())
    }
}

impl Serialize for Estimate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let parts = self.parts();
        let mut map = serializer.serialize_map(Some(parts.len() + 1))?;
        for (name, bytes) in parts {
            map.serialize_entry(name, &bytes)?;
        }
        map.serialize_entry("total", &self.total())?;
        map.end()
    }
}
