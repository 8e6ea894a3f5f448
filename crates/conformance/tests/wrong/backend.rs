//! The toy backend with one mistake.

use backend_api::ops::{
    Add, AppendRows, ApplyRope, Argmax, Attention, ComputeAttentionScores, Embed, Matmul, Mul,
    NormQkvRopeAppend, NormSwiglu, RmsNorm, Sample, SampleParams, Silu, Softmax, WeightLayout,
    WeightedSumRows,
};
use backend_api::{At, Checked, DType, Heads, Io, KernelBackend, Mat, MatMut, Op, Result};
use conformance::round;
use conformance::toy::{ToyBackend, ToyTensor, load, store};

use crate::faults::Fault;
use crate::faults::Fault as F;

/// The toy backend with a mistake.
pub(crate) struct Wrong {
    pub(crate) toy: ToyBackend,
    pub(crate) fault: Fault,
}

type Tensor = ToyTensor;

/// The part of a row outside a window that follows its first row, if there is one.
fn poke_beyond(out: MatMut<'_, Tensor>) {
    let window = out.window();
    if window.rows == 0 || window.stride == window.cols {
        return;
    }
    let tensor = out.into_tensor();
    let row = window.offset / window.stride;
    let col = window.offset % window.stride + window.cols;
    store(MatMut::new(tensor).sub(row..row + 1, col..col + 1).unwrap(), &[1.0]);
}

/// Runs `op` row by row on a map of its input.
fn map(io: Io<'_, Tensor>, f: impl Fn(&[f64]) -> Vec<f64>) -> Result<()> {
    let (values, cols) = (load(&io.input()), io.input().n_cols().max(1));
    store(io.into_output(), &values.chunks(cols).flat_map(f).collect::<Vec<_>>());
    Ok(())
}

impl Wrong {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// A tensor with other elements than a window's, in its shape.
    fn tensor(&self, like: &Mat<'_, Tensor>, values: &[f64]) -> Result<Tensor> {
        let mut tensor = self.toy.alloc(&[like.n_rows(), like.n_cols()], like.operand().dtype)?;
        store(MatMut::new(&mut tensor), values);
        Ok(tensor)
    }

    /// Keys or values with a head for every query head: its own, or with `fault` that of `i % n_kv_heads`.
    fn spread(&self, kv: &Mat<'_, Tensor>, heads: Heads, fault: Fault) -> Result<(Tensor, Heads)> {
        let (values, dim) = (load(kv), heads.head_dim);
        let of = |i: usize| if self.is(fault) { i % heads.n_kv_heads } else { i / heads.group() };
        let mut spread = self.toy.alloc(&[kv.n_rows(), heads.q_dim()], kv.operand().dtype)?;
        let row = |r: usize| &values[r * heads.kv_dim()..];
        let head = |(r, i)| row(r)[of(i) * dim..][..dim].iter().copied();
        let all = (0..kv.n_rows()).flat_map(|r| (0..heads.n_heads).map(move |i| (r, i)));
        store(MatMut::new(&mut spread), &all.flat_map(head).collect::<Vec<_>>());
        Ok((spread, Heads { n_kv_heads: heads.n_heads, ..heads }))
    }

    /// Positions after `f`.
    fn moved(&self, at: &At<'_, Tensor>, f: impl Fn(f64) -> f64) -> Result<Tensor> {
        self.tensor(&at.positions, &load(&at.positions).into_iter().map(f).collect::<Vec<_>>())
    }
}

impl KernelBackend for Wrong {
    type Tensor = Tensor;

    conformance::forward! { toy }

    fn add_into(&self, op: Checked<Add<'_, Tensor>>) -> Result<()> {
        let Add { io, y } = op.on(self.device())?;
        let ys = load(&y);
        let mut sum: Vec<f64> = load(&io.input()).iter().zip(&ys).map(|(x, y)| x + y).collect();
        if let Some(last) = sum.last_mut().filter(|_| self.is(F::AddLastElement)) {
            *last *= 1.01;
        }
        let mut out = io.into_output();
        store(out.by_ref(), &sum);
        if self.is(F::AddBeyondTheWindow) {
            poke_beyond(out);
        }
        Ok(())
    }

    fn mul_into(&self, op: Checked<Mul<'_, Tensor>>) -> Result<()> {
        let Mul { io, y } = op.on(self.device())?;
        match self.fault {
            F::MulAdds => self.toy.add_into(Add { io, y }.check()?),
            _ => self.toy.mul_into(Mul { io, y }.check()?),
        }
    }

    fn append_rows_into(&self, op: Checked<AppendRows<'_, Tensor>>) -> Result<()> {
        let AppendRows { src, dst, at } = op.on(self.device())?;
        let (rows, last) = (src.n_rows(), dst.n_rows() as f64 - 1.0);
        let positions = match self.fault {
            F::AppendKeepsRowsOutside => self.moved(&at, |p| p.min(last.max(0.0)))?,
            _ => self.moved(&at, |p| p)?,
        };
        let kept = if self.is(F::AppendSkipsLastRow) { rows.saturating_sub(1) } else { rows };
        let at = At { positions: Mat::new(&positions).cols(0..kept)?, first: None, distinct: false };
        self.toy.append_rows_into(AppendRows { src: src.rows(0..kept)?, dst, at }.check()?)
    }

    fn apply_rope_into(&self, op: Checked<ApplyRope<'_, Tensor>>) -> Result<()> {
        let ApplyRope { io, cos, sin, at, head_dim } = op.on(self.device())?;
        let turned: Vec<f64> =
            load(&sin).iter().map(|s| if self.is(F::RopeSign) { -s } else { *s }).collect();
        let sines = self.tensor(&sin, &turned)?;
        let last = (cos.n_rows() as f64 - 1.0).max(0.0);
        let inside = |p: f64| if self.is(F::RopeKeepsRowsOutside) { p.min(last) } else { p };
        let positions = self.moved(&at, inside)?;
        if !self.is(F::RopeNeighbours) {
            let at = At { positions: Mat::new(&positions), first: None, distinct: false };
            return self
                .toy
                .apply_rope_into(ApplyRope { io, cos, sin: Mat::new(&sines), at, head_dim }.check()?);
        }
        let (positions, half) = (load(&at.positions), head_dim / 2);
        let (c, s, cols) = (load(&cos), load(&sin), io.input().n_cols());
        let values = load(&io.input());
        let element = |i: usize| {
            let (position, lane) = (positions[i / cols] as usize, i % cols % head_dim / 2);
            let Some(c) = c.get(position * half + lane) else { return f64::NAN };
            let s = s[position * half + lane];
            if i.is_multiple_of(2) {
                values[i] * c - values[i + 1] * s
            } else {
                values[i] * c + values[i - 1] * s
            }
        };
        store(io.into_output(), &(0..values.len()).map(element).collect::<Vec<_>>());
        Ok(())
    }

    fn argmax_into(&self, op: Checked<Argmax<'_, Tensor>>) -> Result<()> {
        let Argmax { logits, mut id, position } = op.on(self.device())?;
        let (values, cols) = (load(&logits), logits.n_cols().max(1));
        let position = position.filter(|_| !self.is(F::ArgmaxKeepsPosition));
        self.toy.argmax_into(Argmax { logits, id: id.by_ref(), position }.check()?)?;
        let best = |row: &[f64]| {
            let better = |best: usize, i: usize| match self.fault {
                F::ArgmaxLastOfTies => row[i] >= row[best],
                _ => row[i] > row[best] || row[best].is_nan(),
            };
            let found = (0..row.len()).fold(0, |best, i| if better(best, i) { i } else { best });
            let keeps = self.is(F::ArgmaxLastOfTies) && row.iter().any(|v| v.is_nan());
            if keeps { f64::from(u32::MAX) } else { found as f64 }
        };
        if matches!(self.fault, F::ArgmaxLastOfTies | F::ArgmaxForgetsNan) && !values.is_empty() {
            store(id, &values.chunks(cols).map(best).collect::<Vec<_>>());
        }
        Ok(())
    }

    fn compute_attention_scores_into(&self, op: Checked<ComputeAttentionScores<'_, Tensor>>) -> Result<()> {
        let op = op.on(self.device())?;
        let scale = if self.is(F::ScoresUnscaled) { 1.0 } else { op.scale };
        let (keys, heads) = self.spread(&op.k, op.heads, F::ScoresHeadsInterleaved)?;
        let k = Mat::new(&keys);
        self.toy.compute_attention_scores_into(ComputeAttentionScores { k, heads, scale, ..op }.check()?)
    }

    fn embed_into(&self, op: Checked<Embed<'_, Tensor>>) -> Result<()> {
        let Embed { table, ids, out } = op.on(self.device())?;
        let last = (table.n_rows() as f64 - 1.0).max(0.0);
        let inside = |id: f64| if self.is(F::EmbedKeepsRowsOutside) { id.min(last) } else { id };
        let ids = self.moved(&At { positions: ids, first: None, distinct: false }, inside)?;
        self.toy.embed_into(Embed { table, ids: Mat::new(&ids), out }.check()?)
    }

    fn matmul_into(&self, op: Checked<Matmul<'_, Tensor>>) -> Result<()> {
        let Matmul { x, w, mut out, accumulate, layout } = op.on(self.device())?;
        let (k, n, in_out) = (x.n_cols(), out.n_cols(), layout == WeightLayout::InOut);
        let kept = if self.is(F::MatmulSkipsLastTerm) { k.saturating_sub(1) } else { k };
        let wrong_layout = self.is(F::MatmulLayout) && w.window().is_contiguous();
        let (xs, ws) = (load(&x), load(&w));
        let weight = |j: usize, c: usize| if in_out && !wrong_layout { ws[c * n + j] } else { ws[j * k + c] };
        let keeps = accumulate && !self.is(F::MatmulOverwrites);
        let mut sums = if keeps { load(&out.as_mat()) } else { vec![0.0; x.n_rows() * n] };
        for (i, sum) in sums.iter_mut().enumerate() {
            for c in 0..kept {
                let next = *sum + xs[i / n * k + c] * weight(i % n, c);
                *sum = if self.is(F::MatmulHalfAccumulator) { round(DType::F16, next) } else { next };
            }
        }
        store(out.by_ref(), &sums);
        Ok(())
    }

    fn rmsnorm_into(&self, op: Checked<RmsNorm<'_, Tensor>>) -> Result<()> {
        let op = op.on(self.device())?;
        let ones = self.tensor(&op.weight, &vec![1.0; op.weight.n_cols()])?;
        match self.fault {
            F::NormWithoutEps => self.toy.rmsnorm_into(RmsNorm { eps: 0.0, ..op }.check()?),
            F::NormWithoutWeight => {
                self.toy.rmsnorm_into(RmsNorm { io: op.io, weight: Mat::new(&ones), eps: op.eps }.check()?)
            }
            _ => self.toy.rmsnorm_into(op.check()?),
        }
    }

    fn sample_into(&self, op: Checked<Sample<'_, Tensor>>) -> Result<()> {
        let Sample { logits, mut history, id, position, params } = op.on(self.device())?;
        let params = match self.fault {
            F::SampleTopK => SampleParams { top_k: 0, ..params },
            F::SampleTopP => SampleParams { top_p: 1.0, ..params },
            F::SampleMinP => SampleParams { min_p: 0.0, ..params },
            F::SamplePenalty => SampleParams { repetition_penalty: 1.0, ..params },
            F::SampleSeed => SampleParams { seed: params.seed & 0xffff_ffff, ..params },
            _ => params,
        };
        let before = load(&history.as_mat());
        let op = Sample { logits, history: history.by_ref(), id, position, params };
        self.toy.sample_into(op.check()?)?;
        if self.is(F::SampleKeepsHistory) {
            store(history, &before);
        }
        Ok(())
    }

    fn silu_into(&self, op: Checked<Silu<'_, Tensor>>) -> Result<()> {
        let Silu { io } = op.on(self.device())?;
        if !self.is(F::SiluApproximated) {
            return self.toy.silu_into(Silu { io }.check()?);
        }
        map(io, |x| x.iter().map(|x| x / (1.0 + (-1.0001 * x).exp())).collect())
    }

    fn softmax_into(&self, op: Checked<Softmax<'_, Tensor>>) -> Result<()> {
        let Softmax { io } = op.on(self.device())?;
        let plain = |x: &[f64]| {
            let powers: Vec<f64> = x.iter().map(|x| f64::from((*x as f32).exp())).collect();
            let sum: f64 = powers.iter().sum();
            powers.iter().map(|p| p / sum).collect()
        };
        let zeroed = |x: &[f64]| {
            let empty = x.iter().all(|x| *x == f64::NEG_INFINITY);
            let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = x.iter().map(|x| (x - max).exp()).sum();
            x.iter().map(|x| if empty { 0.0 } else { (x - max).exp() / sum }).collect()
        };
        match self.fault {
            F::SoftmaxWithoutMaximum => map(io, plain),
            F::SoftmaxZeroesEmptyRows => map(io, zeroed),
            _ => self.toy.softmax_into(Softmax { io }.check()?),
        }
    }

    fn weighted_sum_rows_into(&self, op: Checked<WeightedSumRows<'_, Tensor>>) -> Result<()> {
        let WeightedSumRows { weights, rows, heads, mut out } = op.on(self.device())?;
        let n = weights.n_cols();
        let n = if self.is(F::SumSkipsLastRow) { n.saturating_sub(1) } else { n };
        let (values, heads) = self.spread(&rows.rows(0..n)?, heads, F::SumHeadsInterleaved)?;
        let (weights, rows) = (weights.cols(0..n)?, Mat::new(&values));
        let sum = WeightedSumRows { weights, rows, heads, out: out.by_ref() };
        self.toy.weighted_sum_rows_into(sum.check()?)?;
        if self.is(F::SumCuts) && out.operand().dtype == DType::BF16 {
            // Towards zero by half a unit in the last place, then rounded.
            let cut: Vec<f64> = load(&out.as_mat()).iter().map(|v| v * (1.0 - 1.0 / 256.0)).collect();
            store(out, &cut);
        }
        Ok(())
    }

    fn attention(&self, op: Checked<Attention<'_, Tensor>>) -> Result<()> {
        let mut op = op.on(self.device())?;
        match self.fault {
            F::AttentionSeesNext => op.at.first = op.at.first.map(|first| first + 1),
            F::AttentionWithoutWindow => op.window = None,
            F::AttentionHeadsInterleaved if op.heads.n_kv_heads == 2 => return self.interleaved(op),
            _ => {}
        }
        self.toy.attention(op.check()?)
    }

    fn norm_qkv_rope_append(&self, op: Checked<NormQkvRopeAppend<'_, Tensor>>) -> Result<()> {
        let NormQkvRopeAppend { x, norm, eps, w, heads, cos, sin, at, mut qkv, mut k, mut v, scratch } =
            op.on(self.device())?;
        let eps = if self.is(F::FrontWithoutEps) { 0.0 } else { eps };
        let (q, kv) = (heads.q_dim(), heads.kv_dim());
        let product = if self.is(F::FrontAppendsUnturned) {
            let ones = vec![1.0; w.n_cols()];
            let mut normed = self.tensor(&x, &load(&x))?;
            let weight = if ones.len() == norm.n_cols() { norm } else { x };
            let io = Io::InPlace(MatMut::new(&mut normed));
            self.toy.rmsnorm_into(RmsNorm { io, weight, eps }.check()?)?;
            let mut all = self.toy.alloc(&[x.n_rows(), heads.qkv_dim()], DType::F32)?;
            let out = MatMut::new(&mut all);
            let layout = WeightLayout::OutIn;
            let x = Mat::new(&normed);
            self.toy.matmul_into(Matmul { x, w, out, accumulate: false, layout }.check()?)?;
            Some(all)
        } else {
            None
        };
        let (first, second) = (k.by_ref(), v.by_ref());
        let (first, second) = if self.is(F::FrontSwapsCaches) { (second, first) } else { (first, second) };
        let op = NormQkvRopeAppend {
            x,
            norm,
            eps,
            w,
            heads,
            cos,
            sin,
            at,
            qkv: qkv.by_ref(),
            k: first,
            v: second,
            scratch,
        };
        self.toy.norm_qkv_rope_append(op.check()?)?;
        if let Some(all) = product {
            let src = Mat::new(&all).cols(q..q + kv)?;
            self.toy.append_rows_into(AppendRows { src, dst: k, at }.check()?)?;
        }
        Ok(())
    }

    fn norm_swiglu(&self, op: Checked<NormSwiglu<'_, Tensor>>) -> Result<()> {
        let NormSwiglu { x, norm, eps, w, out, mut scratch, gate_up } = op.on(self.device())?;
        let (ffn, hidden) = (out.n_cols(), x.n_cols());
        let mut rows = load(&w);
        if self.is(F::SwigluSwapsHalves) {
            rows.rotate_left(ffn * hidden);
        }
        let weights = self.tensor(&w, &rows)?;
        let w = Mat::new(&weights);
        let op = NormSwiglu { x, norm, eps, w, out, scratch: scratch.by_ref(), gate_up };
        self.toy.norm_swiglu(op.check()?)?;
        if self.is(F::SwigluWritesScratchRow) {
            poke_beyond(scratch);
        }
        Ok(())
    }
}

impl Wrong {
    /// Query head `i` reads key/value head `i % n_kv_heads`.
    fn interleaved(&self, op: Attention<'_, Tensor>) -> Result<()> {
        let Attention { q, k, v, heads, window, at, mut out, mut scratch } = op;
        let dim = heads.head_dim;
        for head in 0..heads.n_heads {
            let (of_q, kv) = (head * dim..(head + 1) * dim, head % heads.n_kv_heads);
            let of_kv = kv * dim..(kv + 1) * dim;
            let op = Attention {
                q: q.cols(of_q.clone())?,
                k: k.cols(of_kv.clone())?,
                v: v.cols(of_kv)?,
                heads: Heads { n_heads: 1, n_kv_heads: 1, head_dim: dim },
                window,
                at,
                out: out.by_ref().cols(of_q)?,
                scratch: scratch.by_ref().rows(head..head + 1)?,
            };
            self.toy.attention(op.check()?)?;
        }
        Ok(())
    }
}
