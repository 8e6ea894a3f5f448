//! Sizes and constants of a model, and the `config.json` that says them.

use serde_json::{Map, Value, json};

/// Model family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelType {
    /// May have a sliding window.
    Mistral,
    /// May have rotary scaling.
    Llama,
}

/// How rotary frequencies are stretched for longer contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// All frequencies divided by the factor.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Low frequencies divided by the factor, high ones kept, those in between blended (Llama 3.1).
    Llama3 {
        /// Divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original / this` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original / this` are high frequencies.
        high_freq_factor: f64,
        /// Context that the model was trained with at first.
        original_max_position_embeddings: usize,
    },
}

/// What the forward pass needs to know of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceConfig {
    /// Elements of a token's state.
    pub hidden_size: usize,
    /// Elements between gate/up and down.
    pub intermediate_size: usize,
    /// Layers.
    pub n_layers: usize,
    /// Token ids.
    pub vocab_size: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Elements of a head; even.
    pub head_dim: usize,
    /// Added to the mean of squares.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: Option<RopeScaling>,
    /// How many positions a token sees, its own included.
    pub sliding_window: Option<usize>,
    /// Whether the embedding table is also the output projection.
    pub tie_word_embeddings: bool,
    /// Longest context, for `config.json`; the forward pass knows no limit.
    pub max_position_embeddings: usize,
    /// Family.
    pub model_type: ModelType,
}

impl ReferenceConfig {
    /// A small Mistral: hidden 32, 2 layers, 4:2 heads of 8, 61 ids. Tests change what they are about.
    pub fn tiny() -> Self {
        Self {
            hidden_size: 32,
            intermediate_size: 48,
            n_layers: 2,
            vocab_size: 61,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 8,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            sliding_window: None,
            tie_word_embeddings: false,
            max_position_embeddings: 8192,
            model_type: ModelType::Mistral,
        }
    }

    /// Names and shapes of the weights.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, ffn) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim);
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden])];
        for layer in 0..self.n_layers {
            let of_layer = [
                ("input_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![q, hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, q]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.gate_proj", vec![ffn, hidden]),
                ("mlp.up_proj", vec![ffn, hidden]),
                ("mlp.down_proj", vec![hidden, ffn]),
            ];
            let named = of_layer.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape));
            tensors.extend(named);
        }
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.tie_word_embeddings {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocab_size, hidden]));
        }
        tensors
    }

    /// Radians per position of each of the `head_dim / 2` pairs, as transformers computes them.
    pub fn inv_freq(&self) -> Vec<f64> {
        let dim = self.head_dim as f64;
        let plain = (0..self.head_dim / 2).map(|i| self.rope_theta.powf(-2.0 * i as f64 / dim));
        let scaled = |freq: f64| match self.rope_scaling {
            None => freq,
            Some(RopeScaling::Linear { factor }) => freq / factor,
            Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. }) => {
                let waves = self.original_context() * freq / (2.0 * std::f64::consts::PI);
                let blend = (waves - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let blend = blend.clamp(0.0, 1.0);
                (1.0 - blend) * freq / factor + blend * freq
            }
        };
        plain.map(scaled).collect()
    }

    fn original_context(&self) -> f64 {
        match self.rope_scaling {
            Some(RopeScaling::Llama3 { original_max_position_embeddings, .. }) => {
                original_max_position_embeddings as f64
            }
            _ => self.max_position_embeddings as f64,
        }
    }

    /// `config.json` in the old form, with `rope_theta` and `rope_scaling`.
    pub fn config_json(&self) -> String {
        let mut config = self.common();
        config.insert("rope_theta".into(), json!(self.rope_theta));
        let scaling = self.rope_scaling.map_or(Value::Null, |s| Value::Object(s.fields()));
        config.insert("rope_scaling".into(), scaling);
        config.insert("torch_dtype".into(), json!("float32"));
        Value::Object(config).to_string()
    }

    /// `config.json` in the new form, with `rope_parameters`.
    pub fn config_json_new(&self) -> String {
        let default = || Map::from_iter([("rope_type".to_owned(), json!("default"))]);
        let mut rope = self.rope_scaling.map_or_else(default, |s| s.fields());
        rope.insert("rope_theta".into(), json!(self.rope_theta));
        let mut config = self.common();
        config.insert("rope_parameters".into(), Value::Object(rope));
        config.insert("dtype".into(), json!("float32"));
        Value::Object(config).to_string()
    }

    fn common(&self) -> Map<String, Value> {
        let (architecture, model_type) = match self.model_type {
            ModelType::Mistral => ("MistralForCausalLM", "mistral"),
            ModelType::Llama => ("LlamaForCausalLM", "llama"),
        };
        let mut fields = vec![
            ("architectures", json!([architecture])),
            ("model_type", json!(model_type)),
            ("hidden_act", json!("silu")),
            ("hidden_size", json!(self.hidden_size)),
            ("intermediate_size", json!(self.intermediate_size)),
            ("num_hidden_layers", json!(self.n_layers)),
            ("vocab_size", json!(self.vocab_size)),
            ("num_attention_heads", json!(self.n_heads)),
            ("num_key_value_heads", json!(self.n_kv_heads)),
            ("head_dim", json!(self.head_dim)),
            ("rms_norm_eps", json!(self.rms_norm_eps)),
            ("max_position_embeddings", json!(self.max_position_embeddings)),
            ("tie_word_embeddings", json!(self.tie_word_embeddings)),
        ];
        match self.model_type {
            ModelType::Mistral => fields.push(("sliding_window", json!(self.sliding_window))),
            ModelType::Llama => {
                fields.extend([("attention_bias", json!(false)), ("mlp_bias", json!(false))]);
            }
        }
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl RopeScaling {
    fn fields(&self) -> Map<String, Value> {
        let fields = match self {
            Self::Linear { factor } => vec![("rope_type", json!("linear")), ("factor", json!(factor))],
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                vec![
                    ("rope_type", json!("llama3")),
                    ("factor", json!(factor)),
                    ("low_freq_factor", json!(low_freq_factor)),
                    ("high_freq_factor", json!(high_freq_factor)),
                    ("original_max_position_embeddings", json!(original_max_position_embeddings)),
                ]
            }
        };
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let plain = ReferenceConfig { head_dim: 128, rope_theta: 500_000.0, ..ReferenceConfig::tiny() };
        let scaled = ReferenceConfig { rope_scaling: Some(scaling), ..plain.clone() };
        let (plain, scaled) = (plain.inv_freq(), scaled.inv_freq());
        assert_eq!(plain[0], 1.0);
        assert_eq!(scaled[0], 1.0);
        assert_eq!(scaled[63], plain[63] / 8.0);
        // Wavelengths between 2048 and 8192 are blended.
        for (p, s) in plain.iter().zip(&scaled) {
            let wavelength = 2.0 * std::f64::consts::PI / p;
            let ratio = p / s;
            match wavelength {
                w if w < 2048.0 => assert_eq!(ratio, 1.0),
                w if w > 8192.0 => assert!((ratio - 8.0).abs() < 1e-12),
                _ => assert!(ratio > 1.0 && ratio < 8.0),
            }
        }
    }

    #[test]
    fn linear_scaling_divides_all() {
        let scaling = Some(RopeScaling::Linear { factor: 4.0 });
        let scaled = ReferenceConfig { rope_scaling: scaling, ..ReferenceConfig::tiny() };
        assert_eq!(scaled.inv_freq(), [0.25, 0.025, 0.0025, 0.00025].map(|f: f64| f));
    }
}
