//! What a Hugging Face `config.json` says of a Mistral or Llama model.
//!
//! Strict: a setting that would change the result and is not implemented is an error, never ignored.

use std::path::Path;

use backend_api::ops::MAX_VOCAB;
use backend_api::{Error, Heads, Result};
use memory_estimate::{EstimateError, ModelShape};
use serde_json::{Map, Value};

/// The family of a model; both run the same forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `MistralForCausalLM`.
    Mistral,
    /// `LlamaForCausalLM`.
    Llama,
}

/// How rotary frequencies are stretched beyond the trained context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context that the model was trained with.
        original_context: f64,
    },
}

/// Everything that the forward pass depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Family.
    pub family: Family,
    /// Dimensions.
    pub shape: ModelShape,
    /// Added to the mean of squares in every norm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Ids that end a text.
    pub eos_token_ids: Vec<u32>,
}

impl Config {
    /// Reads `config.json` and, if the folder has one, `generation_config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] for a missing file, [`Error::Format`] and [`Error::Unsupported`] for its contents.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let generation = match read_bounded(&folder.join("generation_config.json")) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
            other => Some(other?),
        };
        Self::parse(&read_bounded(&folder.join("config.json"))?, generation.as_deref(), folder)
    }

    /// Reads the contents of `config.json` and of `generation_config.json`.
    ///
    /// # Errors
    /// As [`Config::from_folder`].
    pub fn from_bytes(config: &[u8], generation_config: Option<&[u8]>) -> Result<Self> {
        Self::parse(config, generation_config, Path::new(""))
    }

    /// A model of this shape with the family's usual constants, for random weights.
    pub fn from_shape(shape: ModelShape) -> Self {
        Self {
            family: Family::Mistral,
            shape,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            eos_token_ids: Vec::new(),
        }
    }

    /// Heads of every attention layer.
    pub fn heads(&self) -> Heads {
        let s = &self.shape;
        Heads { n_heads: s.n_heads, n_kv_heads: s.n_kv_heads, head_dim: s.head_dim }
    }

    fn parse(config: &[u8], generation_config: Option<&[u8]>, folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let shape = ModelShape::from_config_json(config).map_err(|e| of_estimate(e, &path))?;
        if shape.vocab_size > MAX_VOCAB {
            let what = format!("a vocabulary of {} ids", shape.vocab_size);
            return Err(Error::Unsupported { what, supported: format!("at most {MAX_VOCAB}") });
        }
        let fields = Fields { map: object(config, &path)?, path: &path };
        let family = fields.family()?;
        fields.refuse_unsupported()?;
        let (rope_theta, rope_scaling) = fields.rope()?;
        let generation_path = folder.join("generation_config.json");
        let generation = generation_config.map(|bytes| object(bytes, &generation_path)).transpose()?;
        let eos = match &generation {
            Some(map) if map.get("eos_token_id").is_some_and(|v| !v.is_null()) => {
                Fields { map: map.clone(), path: &generation_path }.ids("eos_token_id")?
            }
            _ => fields.ids("eos_token_id")?,
        };
        let rms_norm_eps = fields.number("rms_norm_eps")?.unwrap_or(1e-6);
        if !(0.0..1.0).contains(&rms_norm_eps) {
            return Err(fields.wrong("rms_norm_eps", "must lie between 0 and 1"));
        }
        let mut shape = shape;
        if family == Family::Mistral && !fields.map.contains_key("sliding_window") {
            shape.sliding_window = Some(DEFAULT_MISTRAL_WINDOW);
        }
        let rms_norm_eps = rms_norm_eps as f32;
        Ok(Self { family, shape, rms_norm_eps, rope_theta, rope_scaling, eos_token_ids: eos })
    }
}

/// What transformers takes when a Mistral config has no `sliding_window` at all; null means none.
const DEFAULT_MISTRAL_WINDOW: usize = 4096;

const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// Larger config files are refused.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() || metadata.len() > MAX_CONFIG_BYTES {
        return Err(Error::format(path, "is not a file of at most 16 MiB"));
    }
    std::fs::read(path).map_err(Error::io(path))
}

fn of_estimate(error: EstimateError, path: &Path) -> Error {
    match error {
        EstimateError::UnsupportedFamily { found } => {
            Error::Unsupported { what: found, supported: "MistralForCausalLM, LlamaForCausalLM".into() }
        }
        EstimateError::UnsupportedWeights { what } => {
            Error::Unsupported { what: unnamed(&what).into(), supported: "models without biases".into() }
        }
        EstimateError::QuantisedWeights { method } => Error::Unsupported {
            what: format!("quantisation by {method}"),
            supported: "weights in f32, f16 and bf16".into(),
        },
        other => Error::format(path, unnamed(&other.to_string())),
    }
}

/// A message without the file that it begins with, where the path stands before it.
fn unnamed(message: &str) -> &str {
    message.strip_prefix("config.json").map_or(message, |rest| rest.trim_start_matches([':', ' ']))
}

fn object(bytes: &[u8], path: &Path) -> Result<Map<String, Value>> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::format(path, "is not a JSON object")),
        Err(e) => Err(Error::format(path, format!("is not valid JSON: {e}"))),
    }
}

struct Fields<'p> {
    map: Map<String, Value>,
    path: &'p Path,
}

impl Fields<'_> {
    fn wrong(&self, name: &str, what: &str) -> Error {
        Error::format(self.path, format!("`{name}` {what}"))
    }

    /// A field that is there and not null.
    fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        let number = |v: &Value| v.as_f64().filter(|v| v.is_finite());
        self.get(name)
            .map(|v| number(v).ok_or_else(|| self.wrong(name, "is not a finite number")))
            .transpose()
    }

    fn positive(&self, name: &str) -> Result<Option<f64>> {
        match self.number(name)? {
            Some(v) if v <= 0.0 => Err(self.wrong(name, "must be positive")),
            v => Ok(v),
        }
    }

    fn needed(&self, name: &str) -> Result<f64> {
        self.positive(name)?.ok_or_else(|| self.wrong(name, "is missing"))
    }

    fn family(&self) -> Result<Family> {
        let architecture = self.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
        let model_type = self.get("model_type").and_then(Value::as_str);
        match (architecture, model_type) {
            (Some("MistralForCausalLM"), _) | (None, Some("mistral")) => Ok(Family::Mistral),
            (Some("LlamaForCausalLM"), _) | (None, Some("llama")) => Ok(Family::Llama),
            (other, model_type) => Err(Error::Unsupported {
                what: format!("architecture `{}`", other.or(model_type).unwrap_or("unknown")),
                supported: "MistralForCausalLM, LlamaForCausalLM".into(),
            }),
        }
    }

    fn refuse_unsupported(&self) -> Result<()> {
        let unsupported =
            |what: String, supported: &str| Err(Error::Unsupported { what, supported: supported.into() });
        for name in ["attention_bias", "mlp_bias"] {
            if self.get(name).is_some_and(|v| *v != Value::Bool(false)) {
                return unsupported(format!("`{name}`"), "models without biases");
            }
        }
        if let Some(act) = self.get("hidden_act").filter(|v| *v != "silu") {
            return unsupported(format!("activation {act}"), "silu");
        }
        if self.number("partial_rotary_factor")?.is_some_and(|f| f != 1.0) {
            return unsupported("`partial_rotary_factor`".into(), "rotary embedding of whole heads");
        }
        let uniform = |kinds: &Vec<Value>| kinds.windows(2).all(|w| w[0] == w[1]);
        match self.get("layer_types") {
            Some(Value::Array(kinds)) if !uniform(kinds) => {
                unsupported("`layer_types` with differing layers".into(), "the same attention in every layer")
            }
            _ => Ok(()),
        }
    }

    /// Base and scaling, from the new form (`rope_parameters`) or the old (`rope_theta`, `rope_scaling`).
    fn rope(&self) -> Result<(f64, RopeScaling)> {
        let outer = self.positive("rope_theta")?.unwrap_or(DEFAULT_ROPE_THETA);
        let (name, value) = match (self.get("rope_parameters"), self.get("rope_scaling")) {
            (None, None) => return Ok((outer, RopeScaling::None)),
            (Some(new), Some(old)) if new != old => {
                return Err(self.wrong("rope_scaling", "contradicts `rope_parameters`; keep one of them"));
            }
            (Some(new), _) => ("rope_parameters", new),
            (None, Some(old)) => ("rope_scaling", old),
        };
        let Value::Object(map) = value else { return Err(self.wrong(name, "is not an object")) };
        if map.values().any(Value::is_object) {
            let what = format!("`{name}` per kind of layer");
            return Err(Error::Unsupported { what, supported: "one rotary embedding for all layers".into() });
        }
        let inner = Fields { map: map.clone(), path: self.path };
        let theta = inner.positive("rope_theta")?.unwrap_or(outer);
        let kind = inner.get("rope_type").or_else(|| inner.get("type"));
        let kind = kind.map_or(Some("default"), Value::as_str);
        if inner.number("partial_rotary_factor")?.is_some_and(|f| f != 1.0) {
            let supported = "rotary embedding of whole heads".into();
            return Err(Error::Unsupported { what: "`partial_rotary_factor`".into(), supported });
        }
        let scaling = match kind {
            Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear { factor: inner.needed("factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: inner.needed("factor")?,
                low_freq_factor: inner.needed("low_freq_factor")?,
                high_freq_factor: inner.needed("high_freq_factor")?,
                original_context: inner.needed("original_max_position_embeddings")?,
            },
            other => {
                let what = format!("rotary type `{}`", other.unwrap_or("not a string"));
                return Err(Error::Unsupported { what, supported: "default, linear, llama3".into() });
            }
        };
        if let RopeScaling::Llama3 { low_freq_factor, high_freq_factor, .. } = scaling
            && low_freq_factor >= high_freq_factor
        {
            return Err(self.wrong(name, "needs low_freq_factor < high_freq_factor"));
        }
        Ok((theta, scaling))
    }

    /// An id or a list of ids.
    fn ids(&self, name: &str) -> Result<Vec<u32>> {
        let id = |v: &Value| {
            let id = v.as_u64().and_then(|v| u32::try_from(v).ok());
            id.ok_or_else(|| self.wrong(name, "is neither a token id nor a list of them"))
        };
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(one) => Ok(vec![id(one)?]),
        }
    }
}
