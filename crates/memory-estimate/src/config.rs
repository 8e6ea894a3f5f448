use crate::error::quoted;
use crate::{EstimateError, ModelShape};
use serde_json::{Map, Value};

/// `model_type` and architecture of each family that the decoder runs.
const FAMILIES: [(&str, &str); 2] = [("mistral", "MistralForCausalLM"), ("llama", "LlamaForCausalLM")];

impl ModelShape {
    /// Reads the shape from the text of a Hugging Face `config.json` of the Mistral or Llama family.
    ///
    /// `model_type` and the first of `architectures` must each be of a supported family where they
    /// are given, and one must be. An absent or null `num_key_value_heads` is
    /// `num_attention_heads`, an absent or null `head_dim` is `hidden_size / num_attention_heads`, an
    /// absent or null `tie_word_embeddings` is false and an absent or null `sliding_window` is none.
    /// Llama has no window, so its `sliding_window` is not read.
    ///
    /// # Errors
    /// Text that is not JSON, a missing field, a field that is not a whole number, another family,
    /// biases, quantised weights, or a shape that fails [`ModelShape::validate`].
    pub fn from_config_json(json: impl AsRef<[u8]>) -> Result<Self, EstimateError> {
        let config: Map<String, Value> = serde_json::from_slice(json.as_ref())
            .map_err(|source| EstimateError::Json { document: "config.json", source })?;
        let family = family(&config)?;
        for field in ["attention_bias", "mlp_bias"] {
            if flag(&config, field)? {
                return Err(EstimateError::UnsupportedWeights {
                    what: format!("config.json: {field} = true"),
                });
            }
        }
        if let Some(quantised) = present(&config, "quantization_config") {
            let method = quantised.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
            return Err(EstimateError::QuantisedWeights { method: quoted(method) });
        }
        let hidden_size = required(&config, "hidden_size")?;
        let n_heads = required(&config, "num_attention_heads")?;
        let head_dim = match number(&config, "head_dim")? {
            Some(head_dim) => head_dim,
            None => default_head_dim(hidden_size, n_heads)?,
        };
        let shape = Self {
            hidden_size,
            intermediate_size: required(&config, "intermediate_size")?,
            n_layers: required(&config, "num_hidden_layers")?,
            vocab_size: required(&config, "vocab_size")?,
            n_heads,
            n_kv_heads: number(&config, "num_key_value_heads")?.unwrap_or(n_heads),
            head_dim,
            tie_word_embeddings: flag(&config, "tie_word_embeddings")?,
            max_position_embeddings: required(&config, "max_position_embeddings")?,
            sliding_window: if family == "mistral" { number(&config, "sliding_window")? } else { None },
        };
        shape.validate()?;
        Ok(shape)
    }
}

fn default_head_dim(hidden_size: usize, n_heads: usize) -> Result<usize, EstimateError> {
    crate::shape::between("num_attention_heads", n_heads, usize::MAX)?;
    if !hidden_size.is_multiple_of(n_heads) {
        let requirement = format!("without head_dim must be a multiple of num_attention_heads, {n_heads}");
        return Err(EstimateError::Invalid { field: "hidden_size", value: hidden_size, requirement });
    }
    Ok(hidden_size / n_heads)
}

/// The `model_type` of the family that the config names.
fn family(config: &Map<String, Value>) -> Result<&'static str, EstimateError> {
    let model_type = match present(config, "model_type") {
        None => None,
        Some(Value::String(name)) => Some(("model_type", name)),
        Some(other) => return Err(wrong("model_type", other, "a string")),
    };
    let architecture = match present(config, "architectures") {
        None => None,
        Some(Value::Array(names)) => match names.first() {
            None => None,
            Some(Value::String(name)) => Some(("architecture", name)),
            Some(other) => return Err(wrong("architectures", other, "a list of strings")),
        },
        Some(other) => return Err(wrong("architectures", other, "a list of strings")),
    };
    let known = |(kind, name): (&'static str, &String)| {
        FAMILIES
            .iter()
            .find(|(model_type, class)| name == if kind == "model_type" { model_type } else { class })
            .map(|(model_type, _)| *model_type)
            .ok_or_else(|| EstimateError::UnsupportedFamily { found: format!("{kind} {}", quoted(name)) })
    };
    // The architecture is checked even when model_type decides: a classifier has another head.
    let by_architecture = architecture.map(known).transpose()?;
    let by_model_type = model_type.map(known).transpose()?;
    if let (Some(a), Some(b)) = (by_model_type, by_architecture)
        && a != b
    {
        let found = format!("model_type {a} with an architecture of {b}");
        return Err(EstimateError::UnsupportedFamily { found });
    }
    by_model_type.or(by_architecture).ok_or(EstimateError::MissingField { field: "model_type" })
}

/// The value of a field that is neither absent nor null.
fn present<'a>(config: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    config.get(field).filter(|value| !value.is_null())
}

fn number(config: &Map<String, Value>, field: &'static str) -> Result<Option<usize>, EstimateError> {
    let Some(value) = present(config, field) else { return Ok(None) };
    match value.as_u64().and_then(|number| usize::try_from(number).ok()) {
        Some(number) => Ok(Some(number)),
        None => Err(wrong(field, value, "a whole number")),
    }
}

fn required(config: &Map<String, Value>, field: &'static str) -> Result<usize, EstimateError> {
    number(config, field)?.ok_or(EstimateError::MissingField { field })
}

fn flag(config: &Map<String, Value>, field: &'static str) -> Result<bool, EstimateError> {
    match present(config, field) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => Err(wrong(field, other, "true or false")),
    }
}

fn wrong(field: &'static str, value: &Value, expected: &'static str) -> EstimateError {
    let found = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    EstimateError::Field { field, found, expected }
}
