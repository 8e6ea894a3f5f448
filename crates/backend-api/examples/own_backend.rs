//! A backend of one's own in one file: plain loops over f32, no threads, no graphs.
//!
//! It writes the required operations only; the fused ones compose themselves. At the end it runs one attention layer.
//! `cargo run -p backend-api --example own_backend`

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use backend_api::ops::*;
use backend_api::{
    At, Checked, Counters, DType, DeviceId, DeviceInfo, DeviceTensor, Error, Fill, Heads, HostTensor, Io,
    KernelBackend, Mat, MatMut, MemoryInfo, Op, Result, Window, random, tensor_bytes,
};

/// Both types that this backend stores have four bytes, so a tensor is a vector of words.
struct Words {
    words: Vec<u32>,
    shape: Vec<usize>,
    dtype: DType,
    device: DeviceId,
}

impl DeviceTensor for Words {
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn device(&self) -> DeviceId {
        self.device
    }
}

/// Reads row `r`, column `c` of a window.
fn at(m: &Mat<'_, Words>, r: usize, c: usize) -> f32 {
    f32::from_bits(word(m, r, c))
}

fn word(m: &Mat<'_, Words>, r: usize, c: usize) -> u32 {
    let Window { offset, stride, .. } = m.window();
    m.tensor().words[offset + r * stride + c]
}

/// Writes every element of a window; `f` gives the value for row and column.
fn write(out: MatMut<'_, Words>, f: impl Fn(usize, usize) -> f32) {
    let Window { offset, rows, cols, stride } = out.window();
    let words = &mut out.into_tensor().words;
    for r in 0..rows {
        for c in 0..cols {
            words[offset + r * stride + c] = f(r, c).to_bits();
        }
    }
}

/// A copy of a window, so that an operation may overwrite its input.
fn copy(m: &Mat<'_, Words>) -> Vec<Vec<f32>> {
    (0..m.n_rows()).map(|r| (0..m.n_cols()).map(|c| at(m, r, c)).collect()).collect()
}

fn map_rows(io: Io<'_, Words>, f: impl Fn(usize, &[f32]) -> Vec<f32>) {
    let rows: Vec<Vec<f32>> = copy(&io.input()).iter().enumerate().map(|(r, row)| f(r, row)).collect();
    write(io.into_output(), |r, c| rows[r][c]);
}

struct Plain {
    device: DeviceId,
    launches: AtomicU64,
}

impl Plain {
    fn take<O: Op>(&self, op: Checked<O>) -> Result<O> {
        self.launches.fetch_add(1, Relaxed);
        op.on(self.device)
    }
}

impl KernelBackend for Plain {
    type Tensor = Words;
    type Graph = ();

    fn name(&self) -> &str {
        "plain"
    }
    fn device(&self) -> DeviceId {
        self.device
    }
    fn info(&self) -> DeviceInfo {
        DeviceInfo { id: self.device, name: "plain loops".into(), features: vec![], total_memory: None }
    }
    fn counters(&self) -> Counters {
        Counters { launches: self.launches.load(Relaxed), ..Counters::default() }
    }
    fn memory(&self) -> MemoryInfo {
        MemoryInfo::default()
    }
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
    fn read_bandwidth(&self) -> Result<f64> {
        Err(Error::Unsupported { what: "a bandwidth probe".into(), supported: "none here".into() })
    }
    fn alloc(&self, shape: &[usize], dtype: DType) -> Result<Words> {
        if !matches!(dtype, DType::F32 | DType::U32) {
            return Err(Error::DType { op: "alloc", operand: "dtype", expected: "f32 or u32", got: dtype });
        }
        let words = vec![0; tensor_bytes(shape, dtype)? / 4];
        Ok(Words { words, shape: shape.to_vec(), dtype, device: self.device })
    }
    fn upload(&self, shape: &[usize], dtype: DType, fill: Fill<'_>) -> Result<Words> {
        let mut tensor = self.alloc(shape, dtype)?;
        fill(0, bytemuck::cast_slice_mut(&mut tensor.words))?;
        Ok(tensor)
    }
    fn write(&self, dst: &mut Words, offset: usize, src: &[u8]) -> Result<()> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut dst.words);
        let n = bytes.len();
        bytes.get_mut(offset..offset + src.len()).ok_or_else(|| outside(n))?.copy_from_slice(src);
        Ok(())
    }
    fn read(&self, src: &Words, offset: usize, out: &mut [u8]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(&src.words);
        out.copy_from_slice(bytes.get(offset..offset + out.len()).ok_or_else(|| outside(bytes.len()))?);
        Ok(())
    }
    fn fill_random(&self, dst: &mut Words, seed: u64, scale: f32) -> Result<()> {
        for (i, word) in (0..).zip(&mut dst.words) {
            *word = random::uniform(seed, i, scale).to_bits();
        }
        Ok(())
    }
    fn step(
        &self,
        (): &mut (),
        first: usize,
        body: &mut (dyn FnMut(&Self, Option<usize>) -> Result<()> + Send),
    ) -> Result<()> {
        body(self, Some(first))
    }

    fn matmul_into(&self, op: Checked<Matmul<'_, Words>>) -> Result<()> {
        let Matmul { x, w, out, accumulate, layout } = self.take(op)?;
        let old = copy(&out.as_mat());
        let weight = |n, k| if layout == WeightLayout::OutIn { at(&w, n, k) } else { at(&w, k, n) };
        write(out, |r, n| {
            let sum: f32 = (0..x.n_cols()).map(|k| at(&x, r, k) * weight(n, k)).sum();
            if accumulate { old[r][n] + sum } else { sum }
        });
        Ok(())
    }
    fn rmsnorm_into(&self, op: Checked<RmsNorm<'_, Words>>) -> Result<()> {
        let RmsNorm { io, weight, eps } = self.take(op)?;
        map_rows(io, |_, x| {
            let mean = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
            x.iter().enumerate().map(|(c, v)| v * at(&weight, 0, c) / (mean + eps).sqrt()).collect()
        });
        Ok(())
    }
    fn softmax_into(&self, op: Checked<Softmax<'_, Words>>) -> Result<()> {
        map_rows(self.take(op)?.io, |_, x| {
            let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = x.iter().map(|v| (v - max).exp()).sum();
            x.iter().map(|v| (v - max).exp() / sum).collect()
        });
        Ok(())
    }
    fn silu_into(&self, op: Checked<Silu<'_, Words>>) -> Result<()> {
        map_rows(self.take(op)?.io, |_, x| x.iter().map(|v| v / (1.0 + (-v).exp())).collect());
        Ok(())
    }
    fn apply_rope_into(&self, op: Checked<ApplyRope<'_, Words>>) -> Result<()> {
        let ApplyRope { io, cos, sin, at: positions, head_dim } = self.take(op)?;
        let half = head_dim / 2;
        map_rows(io, |r, x| {
            let p = word(&positions.positions, 0, r) as usize;
            let turned = |c: usize| {
                let i = c % half;
                if p >= cos.n_rows() {
                    return f32::NAN;
                }
                let (cos, sin) = (at(&cos, p, i), at(&sin, p, i));
                if c % head_dim < half {
                    x[c] * cos - x[c + half] * sin
                } else {
                    x[c] * cos + x[c - half] * sin
                }
            };
            (0..x.len()).map(turned).collect()
        });
        Ok(())
    }
    fn compute_attention_scores_into(&self, op: Checked<ComputeAttentionScores<'_, Words>>) -> Result<()> {
        let ComputeAttentionScores { q, k, heads, scale, out } = self.take(op)?;
        let dim = heads.head_dim;
        write(out, |i, j| {
            let (row, head) = (i / heads.n_heads, i % heads.n_heads);
            let (query, key) = (head * dim, head / heads.group() * dim);
            scale * (0..dim).map(|c| at(&q, row, query + c) * at(&k, j, key + c)).sum::<f32>()
        });
        Ok(())
    }
    fn weighted_sum_rows_into(&self, op: Checked<WeightedSumRows<'_, Words>>) -> Result<()> {
        let WeightedSumRows { weights, rows, heads, out } = self.take(op)?;
        write(out, |i, c| {
            let (head, c) = (c / heads.head_dim, c % heads.head_dim);
            let (weight, col) = (i * heads.n_heads + head, head / heads.group() * heads.head_dim + c);
            (0..rows.n_rows()).map(|j| at(&weights, weight, j) * at(&rows, j, col)).sum()
        });
        Ok(())
    }
    fn add_into(&self, op: Checked<Add<'_, Words>>) -> Result<()> {
        let Add { io, y } = self.take(op)?;
        map_rows(io, |r, x| x.iter().enumerate().map(|(c, v)| v + at(&y, r, c)).collect());
        Ok(())
    }
    fn mul_into(&self, op: Checked<Mul<'_, Words>>) -> Result<()> {
        let Mul { io, y } = self.take(op)?;
        map_rows(io, |r, x| x.iter().enumerate().map(|(c, v)| v * at(&y, r, c)).collect());
        Ok(())
    }
    fn embed_into(&self, op: Checked<Embed<'_, Words>>) -> Result<()> {
        let Embed { table, ids, out } = self.take(op)?;
        write(out, |r, c| {
            let id = word(&ids, 0, r) as usize;
            if id < table.n_rows() { at(&table, id, c) } else { f32::NAN }
        });
        Ok(())
    }
    fn append_rows_into(&self, op: Checked<AppendRows<'_, Words>>) -> Result<()> {
        let AppendRows { src, mut dst, at: positions } = self.take(op)?;
        for r in 0..src.n_rows() {
            let p = word(&positions.positions, 0, r) as usize;
            if p < dst.n_rows() {
                write(dst.by_ref().rows(p..p + 1)?, |_, c| at(&src, r, c));
            }
        }
        Ok(())
    }
    fn argmax_into(&self, op: Checked<Argmax<'_, Words>>) -> Result<()> {
        let Argmax { logits, id, position } = self.take(op)?;
        let best = |r: usize| {
            let row: Vec<f32> = (0..logits.n_cols()).map(|c| at(&logits, r, c)).collect();
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let valid = !row.iter().any(|v| v.is_nan());
            row.iter().position(|v| *v == max).filter(|_| valid).map_or(NO_ID, |c| c as u32)
        };
        write(id, |_, r| f32::from_bits(best(r)));
        if let Some(position) = position {
            let old: Vec<u32> = (0..position.n_cols()).map(|r| word(&position.as_mat(), 0, r)).collect();
            write(position, |_, r| f32::from_bits(old[r].wrapping_add(1)));
        }
        Ok(())
    }
    fn sample_into(&self, op: Checked<Sample<'_, Words>>) -> Result<()> {
        let op = self.take(op)?;
        if op.params.temperature != 0.0 || op.params.repetition_penalty != 1.0 {
            return Err(Error::Unsupported {
                what: "sampling".into(),
                supported: "the largest logit".into(),
            });
        }
        let position = Some(op.position);
        self.argmax_into(Argmax { logits: op.logits, id: op.id, position }.check()?)
    }
}

fn outside(len: usize) -> Error {
    Error::Shape { op: "transfer", operand: "bytes", expected: vec![len], got: vec![] }
}

fn main() -> Result<()> {
    let b = Plain { device: DeviceId::unique("plain", 0), launches: AtomicU64::new(0) };
    let heads = Heads { n_heads: 2, n_kv_heads: 1, head_dim: 4 };
    let (rows, capacity) = (3, 8);
    let random = |shape: &[usize], seed| {
        let mut t = b.alloc(shape, DType::F32)?;
        b.fill_random(&mut t, seed, 1.0)?;
        Ok::<_, Error>(t)
    };
    let q = random(&[rows, heads.q_dim()], 1)?;
    let (k, v) = (random(&[capacity, heads.kv_dim()], 2)?, random(&[capacity, heads.kv_dim()], 3)?);
    let positions = b.to_device(&HostTensor::from_vec(&[rows], vec![0u32, 1, 2])?)?;
    let mut out = b.alloc(&[rows, heads.q_dim()], DType::F32)?;
    let mut scratch = b.alloc(&[heads.n_heads, capacity], DType::F32)?;
    let layer = Attention {
        q: Mat::new(&q),
        k: Mat::new(&k),
        v: Mat::new(&v),
        heads,
        window: None,
        at: At { positions: Mat::vector(&positions), first: Some(0), distinct: false },
        out: MatMut::new(&mut out),
        scratch: MatMut::new(&mut scratch),
    };
    b.attention(layer.check()?)?;
    let (out, v) = (b.to_host_2d(&out)?, b.to_host_2d(&v)?);
    println!("{out:.3}");
    println!("{} operations ran", b.counters().launches);
    assert_eq!(out.row(0).iter().take(4).collect::<Vec<_>>(), v.row(0).iter().collect::<Vec<_>>());
    Ok(())
}
