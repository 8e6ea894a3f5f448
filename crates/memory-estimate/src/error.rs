use std::path::PathBuf;

/// Why a shape, a file or an estimate was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EstimateError {
    /// A value of a shape or of a request is outside what a decoder can have.
    #[error("{field} is {value}, but {requirement}")]
    Invalid {
        /// Name of the offending field.
        field: &'static str,
        /// Its value.
        value: usize,
        /// What the value must satisfy.
        requirement: String,
    },
    /// The number of bytes does not fit 64 bits.
    #[error("the estimate exceeds 2^64 bytes; reduce the context or the batch")]
    Overflow,
    /// The text is not JSON of the expected form.
    #[error("{document} is not valid: {source}")]
    Json {
        /// Which document was read.
        document: &'static str,
        /// Position and cause.
        source: serde_json::Error,
    },
    /// A required field of `config.json` is absent or null.
    #[error("config.json has no {field}; add it, or use a Hugging Face model folder that is complete")]
    MissingField {
        /// Name of the field.
        field: &'static str,
    },
    /// A field of `config.json` has the wrong type or is out of range.
    #[error("config.json: {field} is {found}, but must be {expected}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What the file has there, shortened.
        found: String,
        /// What is read there.
        expected: &'static str,
    },
    /// The model belongs to a family that the decoder does not run.
    #[error(
        "unsupported model {found}; supported are model_type mistral (MistralForCausalLM) \
         and llama (LlamaForCausalLM)"
    )]
    UnsupportedFamily {
        /// What the file names.
        found: String,
    },
    /// The model uses something that adds weights which the decoder does not have.
    #[error("{what} is not supported: the estimate would leave those weights out")]
    UnsupportedWeights {
        /// The option or the tensor.
        what: String,
    },
    /// The weights are quantised.
    #[error(
        "config.json: quantisation by {method} is not supported; supported are weights in f32, f16 and bf16"
    )]
    QuantisedWeights {
        /// What the file names.
        method: String,
    },
    /// A safetensors header has no tensor of this name.
    #[error(
        "the safetensors header has no tensor {tensor}; for a sharded model or another \
         family, read config.json instead"
    )]
    MissingTensor {
        /// Name of the tensor.
        tensor: String,
    },
    /// A safetensors header holds more or less than the model that its dimensions describe.
    #[error(
        "the safetensors header holds {stored} weights, but a model of its dimensions has \
         {expected}; if this is one shard of several or quantised, read config.json instead"
    )]
    NotWhole {
        /// Elements of the tensors in the header.
        stored: u64,
        /// Parameters of the inferred shape.
        expected: u64,
    },
    /// An entry of a safetensors header contradicts itself or the others.
    #[error("safetensors header: tensor {tensor} {problem}")]
    Tensor {
        /// Name of the tensor, shortened.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file is not a safetensors file, or is cut short.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Text from a file, quoted and shortened so that an error stays one readable line.
pub(crate) fn quoted(text: &str) -> String {
    const LIMIT: usize = 60;
    if text.chars().nth(LIMIT).is_none() {
        return format!("{text:?}");
    }
    let head: String = text.chars().take(LIMIT).collect();
    format!("{head:?}…")
}
