//! The forward pass, position by position over a growing cache.

use super::{ReferenceModel, Weight};

/// Keys and values of a layer, a row per position.
#[derive(Default)]
struct Cache {
    k: Vec<Vec<f64>>,
    v: Vec<Vec<f64>>,
}

/// `w·x` with `w` as `[out, in]`.
fn project(w: &Weight, x: &[f64]) -> Vec<f64> {
    w.data.chunks_exact(x.len().max(1)).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}

fn rmsnorm(x: &[f64], weight: &Weight, eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + eps).sqrt();
    x.iter().zip(&weight.data).map(|(v, w)| v * scale * w).collect()
}

/// Turns every head by `angles`, the first half of a head against the second.
fn rotate(x: &mut [f64], angles: &[f64]) {
    let half = angles.len();
    for head in x.chunks_exact_mut((2 * half).max(1)) {
        let (first, second) = head.split_at_mut(half);
        for ((a, b), angle) in first.iter_mut().zip(second).zip(angles) {
            let (sin, cos) = angle.sin_cos();
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

fn softmax(scores: &mut [f64]) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter_mut().for_each(|s| *s = (*s - max).exp());
    let sum: f64 = scores.iter().sum();
    scores.iter_mut().for_each(|s| *s /= sum);
}

impl ReferenceModel {
    /// Logits after every id, the ids standing at positions 0, 1, …; ids outside the vocabulary have a state of
    /// zeros.
    pub fn logits(&self, ids: &[u32]) -> Vec<Vec<f64>> {
        self.logits_from(ids, 0)
    }

    /// The same from position `first` on. Of the last layer, earlier positions have keys and values alone: with one layer, the
    /// longest context takes seconds.
    pub fn logits_from(&self, ids: &[u32], first: usize) -> Vec<Vec<f64>> {
        let mut caches: Vec<Cache> = (0..self.config.n_layers).map(|_| Cache::default()).collect();
        let positions = ids.iter().enumerate();
        let logits = positions.map(|(at, id)| self.advance(&mut caches, at, *id, at >= first));
        logits.skip(first).collect()
    }

    /// The ids followed by `count` ids, each the one of the largest logit, the lowest of equals.
    pub fn greedy(&self, ids: &[u32], count: usize) -> Vec<u32> {
        let mut caches: Vec<Cache> = (0..self.config.n_layers).map(|_| Cache::default()).collect();
        let mut all = ids.to_vec();
        let mut position = 0;
        while position < all.len() && all.len() < ids.len() + count {
            let logits = self.advance(&mut caches, position, all[position], true);
            position += 1;
            if position == all.len() {
                all.push(crate::ops::argmax::row(&logits));
            }
        }
        all
    }

    /// Logits of a position if they are `wanted`.
    fn advance(&self, caches: &mut [Cache], position: usize, id: u32, wanted: bool) -> Vec<f64> {
        let (config, empty) = (&self.config, Weight { shape: Vec::new(), data: Vec::new() });
        let global = |name: &str| self.weight(name).unwrap_or(&empty);
        let (embedding, hidden) = (global("model.embed_tokens.weight"), config.hidden_size);
        let start = id as usize * hidden;
        let row = embedding.data.get(start..start + hidden);
        let mut x = row.map_or_else(|| vec![0.0; hidden], <[f64]>::to_vec);
        let angles: Vec<f64> = config.inv_freq().iter().map(|f| f * position as f64).collect();
        for (layer, cache) in caches.iter_mut().enumerate() {
            let of_layer = |name: &str| global(&format!("model.layers.{layer}.{name}.weight"));
            let h = rmsnorm(&x, of_layer("input_layernorm"), config.rms_norm_eps);
            let mut q = project(of_layer("self_attn.q_proj"), &h);
            let mut k = project(of_layer("self_attn.k_proj"), &h);
            rotate(&mut q, &angles);
            rotate(&mut k, &angles);
            cache.k.push(k);
            cache.v.push(project(of_layer("self_attn.v_proj"), &h));
            if !wanted && layer + 1 == config.n_layers {
                return Vec::new();
            }
            let attended = self.attend(&q, cache);
            add(&mut x, &project(of_layer("self_attn.o_proj"), &attended));

            let h = rmsnorm(&x, of_layer("post_attention_layernorm"), config.rms_norm_eps);
            let (gate, up) = (project(of_layer("mlp.gate_proj"), &h), project(of_layer("mlp.up_proj"), &h));
            let gated: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            add(&mut x, &project(of_layer("mlp.down_proj"), &gated));
        }
        let h = rmsnorm(&x, global("model.norm.weight"), config.rms_norm_eps);
        let head = if config.tie_word_embeddings { embedding } else { global("lm_head.weight") };
        project(head, &h)
    }

    /// Attention of the last position of a cache.
    fn attend(&self, q: &[f64], cache: &Cache) -> Vec<f64> {
        let (config, dim) = (&self.config, self.config.head_dim);
        let first = config.sliding_window.map_or(0, |w| cache.k.len().saturating_sub(w));
        let (keys, values) = (&cache.k[first..], &cache.v[first..]);
        let mut out = vec![0.0; q.len()];
        for (head, (q, out)) in q.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
            let kv = head / (config.n_heads / config.n_kv_heads) * dim;
            let score = |k: &Vec<f64>| {
                let product: f64 = q.iter().zip(&k[kv..kv + dim]).map(|(a, b)| a * b).sum();
                product / (dim as f64).sqrt()
            };
            let mut weights: Vec<f64> = keys.iter().map(score).collect();
            softmax(&mut weights);
            for (weight, v) in weights.iter().zip(values) {
                out.iter_mut().zip(&v[kv..kv + dim]).for_each(|(o, v)| *o += weight * v);
            }
        }
        out
    }
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
