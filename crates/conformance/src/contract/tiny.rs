//! A decoding step of one layer that lives on the device, with every operation that a decoder issues.

use backend_api::ops::{
    Attention, Embed, Matmul, NormQkvRopeAppend, NormSwiglu, RmsNorm, Sample, SampleParams, WeightLayout,
};
use backend_api::{At, DType, Heads, Io, KernelBackend, Mat, MatMut, Op, Result};

const HEADS: Heads = Heads { n_heads: 4, n_kv_heads: 2, head_dim: 16 };
const HIDDEN: usize = 64;
const FFN: usize = 96;
const VOCAB: usize = 257;
/// Positions that the cache holds.
pub(super) const CONTEXT: usize = 24;
const EPS: f32 = 1e-3;

/// Weights, cache and buffers.
pub(super) struct Tiny<T> {
    table: T,
    norms: [T; 3],
    qkv_weight: T,
    out_weight: T,
    gate_up_weight: T,
    down_weight: T,
    cos: T,
    sin: T,
    k: T,
    v: T,
    id: T,
    position: T,
    history: T,
    x: T,
    qkv: T,
    attended: T,
    gated: T,
    gate_up: T,
    normed: T,
    scores: T,
    logits: T,
    params: SampleParams,
}

impl<T: backend_api::DeviceTensor> Tiny<T> {
    /// Starts with one id at position 0.
    pub(super) fn new<B: KernelBackend<Tensor = T>>(b: &B, dtype: DType, seed: u64) -> Result<Self> {
        let fill = |shape: &[usize], dtype: DType, n: u64, scale: f32| {
            let mut tensor = b.alloc(shape, dtype)?;
            b.fill_random(&mut tensor, seed * 100 + n, scale)?;
            Ok(tensor)
        };
        let integers = |count: usize, value: u32| {
            let bytes = value.to_ne_bytes().repeat(count);
            b.upload(&[count], DType::U32, &|offset, out| {
                out.copy_from_slice(&bytes[offset..offset + out.len()]);
                Ok(())
            })
        };
        let row = |cols: usize| b.alloc(&[1, cols], dtype);
        Ok(Self {
            table: fill(&[VOCAB, HIDDEN], dtype, 0, 1.0)?,
            norms: [
                fill(&[HIDDEN], dtype, 1, 1.5)?,
                fill(&[HIDDEN], dtype, 2, 1.5)?,
                fill(&[HIDDEN], dtype, 3, 1.5)?,
            ],
            qkv_weight: fill(&[HEADS.qkv_dim(), HIDDEN], dtype, 4, 0.3)?,
            out_weight: fill(&[HIDDEN, HEADS.q_dim()], dtype, 5, 0.3)?,
            gate_up_weight: fill(&[2 * FFN, HIDDEN], dtype, 6, 0.3)?,
            down_weight: fill(&[HIDDEN, FFN], dtype, 7, 0.3)?,
            cos: fill(&[CONTEXT, HEADS.head_dim / 2], DType::F32, 8, 1.0)?,
            sin: fill(&[CONTEXT, HEADS.head_dim / 2], DType::F32, 9, 1.0)?,
            k: fill(&[CONTEXT, HEADS.kv_dim()], dtype, 10, 1.0)?,
            v: fill(&[CONTEXT, HEADS.kv_dim()], dtype, 11, 1.0)?,
            id: integers(1, 7)?,
            position: integers(1, 0)?,
            history: integers(CONTEXT, 7)?,
            x: row(HIDDEN)?,
            qkv: row(HEADS.qkv_dim())?,
            attended: row(HEADS.q_dim())?,
            gated: row(FFN)?,
            gate_up: row(2 * FFN)?,
            normed: row(HIDDEN)?,
            scores: b.alloc(&[HEADS.n_heads, CONTEXT], DType::F32)?,
            logits: row(VOCAB)?,
            params: SampleParams { temperature: 0.7, top_k: 50, seed, ..SampleParams::default() },
        })
    }

    /// Issues one step: the id at the position on the device gives the next.
    pub(super) fn issue<B: KernelBackend<Tensor = T>>(&mut self, b: &B, first: Option<usize>) -> Result<()> {
        let [norm, ffn_norm, last_norm] = &self.norms;
        let at = At { positions: Mat::vector(&self.position), first, distinct: false };
        let ids = Mat::vector(&self.id);
        b.embed_into(Embed { table: Mat::new(&self.table), ids, out: MatMut::new(&mut self.x) }.check()?)?;
        let front = NormQkvRopeAppend {
            x: Mat::new(&self.x),
            norm: Mat::vector(norm),
            eps: EPS,
            w: Mat::new(&self.qkv_weight),
            heads: HEADS,
            cos: Mat::new(&self.cos),
            sin: Mat::new(&self.sin),
            at,
            qkv: MatMut::new(&mut self.qkv),
            k: MatMut::new(&mut self.k),
            v: MatMut::new(&mut self.v),
            scratch: MatMut::new(&mut self.normed),
        };
        b.norm_qkv_rope_append(front.check()?)?;
        let attention = Attention {
            q: Mat::new(&self.qkv).cols(0..HEADS.q_dim())?,
            k: Mat::new(&self.k),
            v: Mat::new(&self.v),
            heads: HEADS,
            window: None,
            at,
            out: MatMut::new(&mut self.attended),
            scratch: MatMut::new(&mut self.scores),
        };
        b.attention(attention.check()?)?;
        project(b, &self.attended, &self.out_weight, &mut self.x, true)?;
        let feed_forward = NormSwiglu {
            x: Mat::new(&self.x),
            norm: Mat::vector(ffn_norm),
            eps: EPS,
            w: Mat::new(&self.gate_up_weight),
            out: MatMut::new(&mut self.gated),
            scratch: MatMut::new(&mut self.normed),
            gate_up: MatMut::new(&mut self.gate_up),
        };
        b.norm_swiglu(feed_forward.check()?)?;
        project(b, &self.gated, &self.down_weight, &mut self.x, true)?;
        let io = Io::Into(Mat::new(&self.x), MatMut::new(&mut self.normed));
        b.rmsnorm_into(RmsNorm { io, weight: Mat::vector(last_norm), eps: EPS }.check()?)?;
        project(b, &self.normed, &self.table, &mut self.logits, false)?;
        let choice = Sample {
            logits: Mat::new(&self.logits),
            history: MatMut::vector(&mut self.history),
            id: MatMut::vector(&mut self.id),
            position: MatMut::vector(&mut self.position),
            params: self.params,
        };
        b.sample_into(choice.check()?)
    }

    /// All that a step leaves behind, as bytes.
    pub(super) fn state<B: KernelBackend<Tensor = T>>(&self, b: &B) -> Result<Vec<Vec<u8>>> {
        [&self.history, &self.position, &self.id, &self.logits, &self.k, &self.v]
            .map(|tensor| b.download(tensor))
            .into_iter()
            .collect()
    }
}

fn project<B: KernelBackend>(
    b: &B,
    x: &B::Tensor,
    w: &B::Tensor,
    out: &mut B::Tensor,
    accumulate: bool,
) -> Result<()> {
    let (x, w, out) = (Mat::new(x), Mat::new(w), MatMut::new(out));
    b.matmul_into(Matmul { x, w, out, accumulate, layout: WeightLayout::OutIn }.check()?)
}
