//! The forward pass, once, for every backend: prompt chunks and single tokens alike.

use std::ops::Range;

use backend_api::ops::{Attention, Embed, Matmul, NormQkvRopeAppend, NormSwiglu, RmsNorm, WeightLayout};
use backend_api::{At, Io, KernelBackend, Mat, MatMut, Op, Result};

use crate::Config;
use crate::model::{Layer, Tensors};

/// Activations of up to `rows` tokens, in the type that the backend wants where nothing else is said.
pub(crate) struct Activations<T> {
    /// The residual stream, f32: every layer adds to it, and what a narrower type would round away adds up.
    pub(crate) x: T,
    /// Output of norms.
    pub(crate) h: T,
    /// In the type of the attention, as `att`.
    pub(crate) qkv: T,
    pub(crate) att: T,
    pub(crate) gate_up: T,
    pub(crate) ffn: T,
    /// f32.
    pub(crate) scores: T,
    /// f32.
    pub(crate) logits: T,
}

/// What a session remembers of each layer, and the rotary tables.
pub(crate) struct Cache<T> {
    /// Keys and values per layer, `[context, n_kv_heads · head_dim]` each.
    pub(crate) kv: Vec<(T, T)>,
    /// Rows of them that attention looks through: those behind hold nothing yet. What is divided among the parts of a device
    /// is then what is there, not what there is room for.
    pub(crate) keys: usize,
    pub(crate) cos: T,
    pub(crate) sin: T,
}

/// Everything that stays the same from call to call.
pub(crate) struct Forward<'a, B: KernelBackend> {
    pub(crate) backend: &'a B,
    pub(crate) config: &'a Config,
    pub(crate) weights: &'a Tensors<B::Tensor>,
}

impl<B: KernelBackend> Forward<'_, B> {
    /// Runs the layers over the tokens `ids` u32 `[1, rows]` at `at`; `x` then holds the rows that are `wanted`. Of the last layer
    /// the others leave keys and values and nothing else, because nothing else of them is ever looked at.
    pub(crate) fn layers(
        &self,
        ids: Mat<'_, B::Tensor>,
        at: At<'_, B::Tensor>,
        wanted: Range<usize>,
        act: &mut Activations<B::Tensor>,
        cache: &mut Cache<B::Tensor>,
    ) -> Result<()> {
        let rows = ids.n_cols();
        let table = Mat::new(&self.weights.embed);
        self.backend
            .embed_into(Embed { table, ids, out: MatMut::new(&mut act.x).rows(0..rows)? }.check()?)?;
        let Cache { kv, keys, cos, sin } = cache;
        let tables = (Mat::new(&*cos), Mat::new(&*sin));
        let last = self.weights.layers.len().saturating_sub(1);
        for (i, (layer, kv)) in self.weights.layers.iter().zip(kv).enumerate() {
            let wanted = if i == last { wanted.clone() } else { 0..rows };
            self.front(layer, rows, at, tables, act, kv)?;
            if !wanted.is_empty() {
                self.attention(layer, wanted.clone(), at, act, kv, *keys)?;
                self.feed_forward(layer, wanted, act)?;
            }
        }
        Ok(())
    }

    /// Queries, keys and values of all rows, from `rmsnorm(x)`.
    fn front(
        &self,
        layer: &Layer<B::Tensor>,
        rows: usize,
        at: At<'_, B::Tensor>,
        (cos, sin): (Mat<'_, B::Tensor>, Mat<'_, B::Tensor>),
        act: &mut Activations<B::Tensor>,
        (k, v): &mut (B::Tensor, B::Tensor),
    ) -> Result<()> {
        let front = NormQkvRopeAppend {
            x: Mat::new(&act.x).rows(0..rows)?,
            norm: Mat::vector(&layer.attention_norm),
            eps: self.config.rms_norm_eps,
            w: Mat::new(&layer.qkv),
            heads: self.config.heads(),
            cos,
            sin,
            at,
            qkv: MatMut::new(&mut act.qkv).rows(0..rows)?,
            k: MatMut::new(k),
            v: MatMut::new(v),
            scratch: MatMut::new(&mut act.h).rows(0..rows)?,
        };
        self.backend.norm_qkv_rope_append(front.check()?)
    }

    /// `x += attention·oᵀ` for some rows, which look through the first `keys` rows of the cache.
    fn attention(
        &self,
        layer: &Layer<B::Tensor>,
        rows: Range<usize>,
        at: At<'_, B::Tensor>,
        act: &mut Activations<B::Tensor>,
        (k, v): &(B::Tensor, B::Tensor),
        keys: usize,
    ) -> Result<()> {
        let heads = self.config.heads();
        let attention = Attention {
            q: Mat::new(&act.qkv).sub(rows.clone(), 0..heads.q_dim())?,
            k: Mat::new(k).rows(0..keys)?,
            v: Mat::new(v).rows(0..keys)?,
            heads,
            window: self.config.shape.sliding_window,
            at: at.rows(rows.clone())?,
            out: MatMut::new(&mut act.att).rows(rows.clone())?,
            scratch: MatMut::new(&mut act.scores).cols(0..keys)?,
        };
        self.backend.attention(attention.check()?)?;
        let out = MatMut::new(&mut act.x).rows(rows.clone())?;
        self.add_product(Mat::new(&act.att).rows(rows)?, &layer.o, out)
    }

    /// `x += swiglu(rmsnorm(x))·downᵀ` for some rows.
    fn feed_forward(
        &self,
        layer: &Layer<B::Tensor>,
        rows: Range<usize>,
        act: &mut Activations<B::Tensor>,
    ) -> Result<()> {
        let front = NormSwiglu {
            x: Mat::new(&act.x).rows(rows.clone())?,
            norm: Mat::vector(&layer.ffn_norm),
            eps: self.config.rms_norm_eps,
            w: Mat::new(&layer.gate_up),
            out: MatMut::new(&mut act.ffn).rows(rows.clone())?,
            scratch: MatMut::new(&mut act.h).rows(rows.clone())?,
            gate_up: MatMut::new(&mut act.gate_up).rows(rows.clone())?,
        };
        self.backend.norm_swiglu(front.check()?)?;
        let out = MatMut::new(&mut act.x).rows(rows.clone())?;
        self.add_product(Mat::new(&act.ffn).rows(rows)?, &layer.down, out)
    }

    fn add_product(&self, x: Mat<'_, B::Tensor>, w: &B::Tensor, out: MatMut<'_, B::Tensor>) -> Result<()> {
        let (w, layout) = (Mat::new(w), WeightLayout::OutIn);
        self.backend.matmul_into(Matmul { x, w, out, accumulate: true, layout }.check()?)
    }

    /// Logits of the token in `row` of `x`.
    pub(crate) fn logits(&self, row: usize, act: &mut Activations<B::Tensor>) -> Result<()> {
        let norm = RmsNorm {
            io: Io::Into(Mat::new(&act.x).rows(row..row + 1)?, MatMut::new(&mut act.h).rows(0..1)?),
            weight: Mat::vector(&self.weights.norm),
            eps: self.config.rms_norm_eps,
        };
        self.backend.rmsnorm_into(norm.check()?)?;
        let head = Matmul {
            x: Mat::new(&act.h).rows(0..1)?,
            w: Mat::new(self.weights.lm_head.as_ref().unwrap_or(&self.weights.embed)),
            out: MatMut::new(&mut act.logits),
            accumulate: false,
            layout: WeightLayout::OutIn,
        };
        self.backend.matmul_into(head.check()?)
    }
}
