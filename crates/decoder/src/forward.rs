//! The forward pass, once, for every backend: prompt chunks and single tokens alike.

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
    /// Runs the layers over the tokens `ids` u32 `[1, rows]` at `at`; `x` then holds a row for each.
    pub(crate) fn layers(
        &self,
        ids: Mat<'_, B::Tensor>,
        at: At<'_, B::Tensor>,
        act: &mut Activations<B::Tensor>,
        cache: &mut Cache<B::Tensor>,
    ) -> Result<()> {
        let rows = ids.n_cols();
        let table = Mat::new(&self.weights.embed);
        self.backend
            .embed_into(Embed { table, ids, out: MatMut::new(&mut act.x).rows(0..rows)? }.check()?)?;
        let Cache { kv, keys, cos, sin } = cache;
        let tables = (Mat::new(&*cos), Mat::new(&*sin));
        for (layer, kv) in self.weights.layers.iter().zip(kv) {
            self.attention(layer, rows, (at, *keys), tables, act, kv)?;
            self.feed_forward(layer, rows, act)?;
        }
        Ok(())
    }

    /// `x += attention(rmsnorm(x))·oᵀ`.
    fn attention(
        &self,
        layer: &Layer<B::Tensor>,
        rows: usize,
        (at, keys): (At<'_, B::Tensor>, usize),
        (cos, sin): (Mat<'_, B::Tensor>, Mat<'_, B::Tensor>),
        act: &mut Activations<B::Tensor>,
        (k, v): &mut (B::Tensor, B::Tensor),
    ) -> Result<()> {
        let (b, heads) = (self.backend, self.config.heads());
        let front = NormQkvRopeAppend {
            x: Mat::new(&act.x).rows(0..rows)?,
            norm: Mat::vector(&layer.attention_norm),
            eps: self.config.rms_norm_eps,
            w: Mat::new(&layer.qkv),
            heads,
            cos,
            sin,
            at,
            qkv: MatMut::new(&mut act.qkv).rows(0..rows)?,
            k: MatMut::new(k),
            v: MatMut::new(v),
            scratch: MatMut::new(&mut act.h).rows(0..rows)?,
        };
        b.norm_qkv_rope_append(front.check()?)?;
        let attention = Attention {
            q: Mat::new(&act.qkv).sub(0..rows, 0..heads.q_dim())?,
            k: Mat::new(&*k).rows(0..keys)?,
            v: Mat::new(&*v).rows(0..keys)?,
            heads,
            window: self.config.shape.sliding_window,
            at,
            out: MatMut::new(&mut act.att).rows(0..rows)?,
            scratch: MatMut::new(&mut act.scores).cols(0..keys)?,
        };
        b.attention(attention.check()?)?;
        self.add_product(Mat::new(&act.att).rows(0..rows)?, &layer.o, MatMut::new(&mut act.x).rows(0..rows)?)
    }

    /// `x += swiglu(rmsnorm(x))·downᵀ`.
    fn feed_forward(
        &self,
        layer: &Layer<B::Tensor>,
        rows: usize,
        act: &mut Activations<B::Tensor>,
    ) -> Result<()> {
        let front = NormSwiglu {
            x: Mat::new(&act.x).rows(0..rows)?,
            norm: Mat::vector(&layer.ffn_norm),
            eps: self.config.rms_norm_eps,
            w: Mat::new(&layer.gate_up),
            out: MatMut::new(&mut act.ffn).rows(0..rows)?,
            scratch: MatMut::new(&mut act.h).rows(0..rows)?,
            gate_up: MatMut::new(&mut act.gate_up).rows(0..rows)?,
        };
        self.backend.norm_swiglu(front.check()?)?;
        self.add_product(
            Mat::new(&act.ffn).rows(0..rows)?,
            &layer.down,
            MatMut::new(&mut act.x).rows(0..rows)?,
        )
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
