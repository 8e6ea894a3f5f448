use crate::error::quoted;
use crate::shape::between;
use crate::{EstimateError, MAX_POSITIONS, ModelShape, StoredTensor, stored_tensors};
use std::collections::BTreeMap;

const EMBED: &str = "model.embed_tokens.weight";
const LM_HEAD: &str = "lm_head.weight";
const LAYERS: &str = "model.layers.";
const ROTARY_FREQUENCIES: &str = ".rotary_emb.inv_freq";

/// The weights of a layer that tell its dimensions, by the end of their names.
const LAYER_WEIGHTS: [&str; 3] =
    ["mlp.gate_proj.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight"];

impl ModelShape {
    /// Infers the shape from the JSON header of a safetensors file that holds a whole model.
    ///
    /// See [`ModelShape::from_stored_tensors`].
    ///
    /// # Errors
    /// As [`stored_tensors`] and [`ModelShape::from_stored_tensors`].
    pub fn from_safetensors_header(header: &[u8], head_dim: usize) -> Result<Self, EstimateError> {
        Self::from_stored_tensors(&stored_tensors(header)?, head_dim)
    }

    /// Infers the shape from a model's tensors, in any order; those of shards may be concatenated.
    ///
    /// The rows of the query and key projections are heads × `head_dim`, which names and shapes cannot
    /// split, so `head_dim` is given. The embeddings are tied when there is no `lm_head.weight`. A
    /// header tells neither the longest context nor a window: they become [`MAX_POSITIONS`] and none.
    /// Rotary frequencies, which old checkpoints store, are not counted.
    ///
    /// # Errors
    /// A missing tensor, dimensions that disagree, layers that differ, biases, a shape that fails
    /// [`ModelShape::validate`], or tensors that are not all of the model and nothing else.
    pub fn from_stored_tensors(tensors: &[StoredTensor], head_dim: usize) -> Result<Self, EstimateError> {
        between("head_dim", head_dim, usize::MAX)?;
        let embed = tensors
            .iter()
            .find(|tensor| tensor.name == EMBED)
            .ok_or_else(|| EstimateError::MissingTensor { tensor: EMBED.to_owned() })?;
        let (vocab_size, hidden_size) = matrix(embed)?;
        let lm_head = tensors.iter().find(|tensor| tensor.name == LM_HEAD);
        if let Some(lm_head) = lm_head
            && matrix(lm_head)? != (vocab_size, hidden_size)
        {
            return Err(problem(
                lm_head,
                format!("is not [{vocab_size}, {hidden_size}] as the embeddings are"),
            ));
        }
        let layers = layer_rows(tensors, hidden_size)?;
        let first = complete(&layers, 0)?;
        for index in 1..layers.len() {
            if complete(&layers, index)? != first {
                let tensor = format!("{LAYERS}{index}");
                return Err(EstimateError::Tensor {
                    tensor,
                    problem: "differs in shape from layer 0".to_owned(),
                });
            }
        }
        let [intermediate_size, q_rows, k_rows] = first;
        let shape = Self {
            hidden_size,
            intermediate_size,
            n_layers: layers.len(),
            vocab_size,
            n_heads: heads("the rows of q_proj", q_rows, head_dim)?,
            n_kv_heads: heads("the rows of k_proj", k_rows, head_dim)?,
            head_dim,
            tie_word_embeddings: lm_head.is_none(),
            max_position_embeddings: MAX_POSITIONS,
            sliding_window: None,
        };
        shape.validate()?;
        let (stored, expected) = (elements(tensors)?, shape.parameters());
        if stored != expected {
            return Err(EstimateError::NotWhole { stored, expected });
        }
        Ok(shape)
    }
}

/// Elements of the tensors that are weights.
fn elements(tensors: &[StoredTensor]) -> Result<u64, EstimateError> {
    tensors
        .iter()
        .filter(|tensor| !tensor.name.ends_with(ROTARY_FREQUENCIES))
        .try_fold(0_u64, |sum, tensor| {
            let count = tensor.shape.iter().try_fold(1_u64, |count, &dim| count.checked_mul(dim))?;
            sum.checked_add(count)
        })
        .ok_or(EstimateError::Overflow)
}

/// Rows of [`LAYER_WEIGHTS`] by layer index.
type LayerRows = BTreeMap<usize, [Option<usize>; LAYER_WEIGHTS.len()]>;

fn layer_rows(tensors: &[StoredTensor], hidden_size: usize) -> Result<LayerRows, EstimateError> {
    let mut layers = LayerRows::new();
    for tensor in tensors {
        let Some((index, weight)) = layer_and_weight(&tensor.name) else { continue };
        if weight.ends_with(".bias") {
            return Err(EstimateError::UnsupportedWeights {
                what: format!("tensor {}", quoted(&tensor.name)),
            });
        }
        let rows = layers.entry(index).or_default();
        let named = LAYER_WEIGHTS.iter().zip(rows.iter_mut()).find(|(name, _)| **name == weight);
        if let Some((_, slot)) = named {
            let (out, columns) = matrix(tensor)?;
            if columns != hidden_size {
                return Err(problem(
                    tensor,
                    format!("has {columns} columns, but hidden_size is {hidden_size}"),
                ));
            }
            *slot = Some(out);
        }
    }
    Ok(layers)
}

/// `model.layers.7.mlp.gate_proj.weight` is layer 7 and `mlp.gate_proj.weight`.
fn layer_and_weight(name: &str) -> Option<(usize, &str)> {
    let (index, weight) = name.strip_prefix(LAYERS)?.split_once('.')?;
    if !index.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((index.parse().ok()?, weight))
}

fn complete(layers: &LayerRows, index: usize) -> Result<[usize; LAYER_WEIGHTS.len()], EstimateError> {
    let rows = layers.get(&index).copied().unwrap_or_default();
    let mut all = [0; LAYER_WEIGHTS.len()];
    for ((slot, rows), weight) in all.iter_mut().zip(rows).zip(LAYER_WEIGHTS) {
        *slot =
            rows.ok_or_else(|| EstimateError::MissingTensor { tensor: format!("{LAYERS}{index}.{weight}") })?;
    }
    Ok(all)
}

fn heads(field: &'static str, rows: usize, head_dim: usize) -> Result<usize, EstimateError> {
    if !rows.is_multiple_of(head_dim) {
        let requirement = format!("must be a multiple of head_dim, which was given as {head_dim}");
        return Err(EstimateError::Invalid { field, value: rows, requirement });
    }
    Ok(rows / head_dim)
}

fn matrix(tensor: &StoredTensor) -> Result<(usize, usize), EstimateError> {
    let &[rows, columns] = tensor.shape.as_slice() else {
        return Err(problem(tensor, format!("has {} dimensions instead of 2", tensor.shape.len())));
    };
    match (usize::try_from(rows), usize::try_from(columns)) {
        (Ok(rows), Ok(columns)) => Ok((rows, columns)),
        _ => Err(problem(tensor, format!("is [{rows}, {columns}], too large for this machine"))),
    }
}

fn problem(tensor: &StoredTensor, problem: String) -> EstimateError {
    EstimateError::Tensor { tensor: quoted(&tensor.name), problem }
}
