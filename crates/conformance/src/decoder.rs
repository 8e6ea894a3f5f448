//! The whole decoder in f64: what a forward pass must come to, for Mistral and Llama models.
//!
//! Independent of the backends and of the decoder under test: plain loops, one position after the other, and
//! file writers of its own.

pub mod cases;
mod config;
mod files;
mod forward;

use std::collections::BTreeMap;

use backend_api::{DType, random};

pub use config::{ModelType, ReferenceConfig, RopeScaling};
pub use files::{Folder, read_tensors};

use crate::host::round;

/// A weight: shape, and elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// `[out, in]`, or `[n]` of a norm.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: Vec<f64>,
}

/// A model: a configuration, and weights by their Hugging Face names.
#[derive(Clone, Debug)]
pub struct ReferenceModel {
    /// Sizes and constants.
    pub config: ReferenceConfig,
    weights: BTreeMap<String, Weight>,
}

impl ReferenceModel {
    /// Random weights, the same for the same seed. Scores of attention spread by about 1.7, so that attention
    /// is far from uniform; logits by about 1; norms lie around 1.
    pub fn random(config: ReferenceConfig, seed: u64) -> Self {
        let weight = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
            let fan_in = shape.last().copied().unwrap_or(1) as f32;
            let deviation = match name.trim_end_matches(".weight").rsplit('.').next() {
                Some("q_proj" | "k_proj") => 1.3 / fan_in.sqrt(),
                Some("o_proj" | "down_proj") => 0.5 / fan_in.sqrt(),
                Some("embed_tokens") if !config.tie_word_embeddings => 1.0,
                _ => 1.0 / fan_in.sqrt(),
            };
            let (centre, scale) = if shape.len() == 1 { (1.0, 0.3) } else { (0.0, deviation * 3f32.sqrt()) };
            let seed = seed.wrapping_mul(1_000_003).wrapping_add(i as u64);
            let count: usize = shape.iter().product();
            let element = |i| f64::from(centre + random::uniform(seed, i, scale));
            (name, Weight { shape, data: (0..count as u64).map(element).collect() })
        };
        let weights = config.tensors().into_iter().enumerate().map(weight).collect();
        Self { config, weights }
    }

    /// A model from the bytes of a safetensors file.
    ///
    /// # Errors
    /// What is wrong with the file, or the tensor that is missing or has another shape than the configuration says.
    pub fn from_safetensors(config: ReferenceConfig, bytes: &[u8]) -> Result<Self, String> {
        let mut weights = read_tensors(bytes)?;
        for (name, shape) in config.tensors() {
            match weights.get(&name) {
                Some(weight) if weight.shape == shape => {}
                Some(weight) => return Err(format!("{name} is {:?} instead of {shape:?}", weight.shape)),
                None => return Err(format!("{name} is missing")),
            }
        }
        let known: Vec<String> = config.tensors().into_iter().map(|(name, _)| name).collect();
        weights.retain(|name, _| known.contains(name));
        Ok(Self { config, weights })
    }

    /// The same model with every weight rounded to a storage type.
    pub fn rounded(&self, dtype: DType) -> Self {
        let mut model = self.clone();
        let weights = model.weights.values_mut().flat_map(|w| &mut w.data);
        weights.for_each(|v| *v = round(dtype, *v));
        model
    }

    /// A weight by its name.
    pub fn weight(&self, name: &str) -> Option<&Weight> {
        self.weights.get(name)
    }
}
