//! Weights that a config has no place for.

use backend_api::{Error, Result, tensor_bytes};

use crate::Config;
use crate::loader::stored_names;
use crate::weights::Weights;

/// Refuses weights that would not be used: they belong to another model than the config describes.
pub(crate) fn refuse_surplus(config: &Config, weights: &Weights) -> Result<()> {
    let known = stored_names(config)?;
    // Older checkpoints store the rotary frequencies, which follow from the config.
    let follows = |name: &str| name.ends_with("rotary_emb.inv_freq");
    for name in weights.names().filter(|n| !known.contains(*n) && !follows(n)) {
        if name == "lm_head.weight" && config.shape.tie_word_embeddings {
            refuse_other_head(config, weights)?;
            continue;
        }
        let what = format!("the stored tensor `{name}`, which the config has no place for,");
        return Err(Error::Unsupported {
            what,
            supported: "exactly the weights of a Mistral or Llama decoder".into(),
        });
    }
    Ok(())
}

/// Refuses an output projection that is stored beside tied embeddings and differs from them.
fn refuse_other_head(config: &Config, weights: &Weights) -> Result<()> {
    let shape = [config.shape.vocab_size, config.shape.hidden_size];
    let (embed, head) = ("model.embed_tokens.weight", "lm_head.weight");
    weights.require(embed, &shape)?;
    let dtype = weights.require(head, &shape)?.dtype;
    let bytes = tensor_bytes(&shape, dtype)?;
    let (mut a, mut b) = (vec![0; COMPARED], vec![0; COMPARED]);
    for offset in (0..bytes).step_by(COMPARED) {
        let n = COMPARED.min(bytes - offset);
        weights.read(embed, dtype, offset, &mut a[..n])?;
        weights.read(head, dtype, offset, &mut b[..n])?;
        if a[..n] != b[..n] {
            let what = "`tie_word_embeddings` with a stored lm_head.weight of its own".into();
            return Err(Error::Unsupported {
                what,
                supported: "a config that unties them, or weights without lm_head".into(),
            });
        }
    }
    Ok(())
}

/// Bytes of two tensors that are compared at a time.
const COMPARED: usize = 1 << 20;
