//! The simplest backend: host memory, one thread, loops in f64.
//!
//! It implements only what has no default and passes [`suite!`](crate::suite).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use backend_api::ops::{
    Add, AppendRows, ApplyRope, Argmax, ComputeAttentionScores, Embed, Matmul, Mul, RmsNorm, Sample, Silu,
    Softmax, WeightLayout, WeightedSumRows,
};
use backend_api::{
    Checked, Counters, DType, DeviceId, DeviceInfo, DeviceTensor, Error, Fill, Heads, Io, KernelBackend, Mat,
    MatMut, MemoryInfo, Op, Result, random, tensor_bytes,
};

use crate::host::{decode, encode};
use crate::ops::{argmax, sample};

/// Host memory that counts itself.
#[derive(Debug)]
pub struct ToyTensor {
    shape: Vec<usize>,
    dtype: DType,
    device: DeviceId,
    bytes: Vec<u8>,
    in_use: Arc<AtomicU64>,
}

impl DeviceTensor for ToyTensor {
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

impl Drop for ToyTensor {
    fn drop(&mut self) {
        self.in_use.fetch_sub(self.bytes.len() as u64, Relaxed);
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct ToyBackend {
    device: DeviceId,
    in_use: Arc<AtomicU64>,
    high_water: AtomicU64,
    launches: AtomicU64,
    allocations: AtomicU64,
    writes: AtomicU64,
    reads: AtomicU64,
    /// Rows that prompts are padded to a multiple of.
    multiple: Option<usize>,
}

impl Default for ToyBackend {
    fn default() -> Self {
        Self::new()
    }
}

/// A window's elements in row-major order.
pub fn load(m: &Mat<'_, ToyTensor>) -> Vec<f64> {
    let (window, size) = (m.window(), m.tensor().dtype.block_bytes());
    let row = |r: usize| {
        let start = (window.offset + r * window.stride) * size;
        decode(m.tensor().dtype, &m.tensor().bytes[start..start + window.cols * size])
    };
    (0..window.rows).flat_map(row).collect()
}

/// Overwrites a window, rounding to its type.
pub fn store(m: MatMut<'_, ToyTensor>, values: &[f64]) {
    let (window, tensor) = (m.window(), m.into_tensor());
    let size = tensor.dtype.block_bytes();
    for (row, values) in values.chunks(window.cols.max(1)).enumerate() {
        let mut bytes = Vec::with_capacity(window.cols * size);
        values.iter().for_each(|v| encode(tensor.dtype, *v, &mut bytes));
        let start = (window.offset + row * window.stride) * size;
        tensor.bytes[start..start + bytes.len()].copy_from_slice(&bytes);
    }
}

/// Reads, maps row by row, writes.
fn map_rows(io: Io<'_, ToyTensor>, f: impl Fn(usize, &[f64]) -> Vec<f64>) {
    let (input, cols) = (load(&io.input()), io.input().n_cols());
    let rows = input.chunks(cols.max(1)).enumerate();
    store(io.into_output(), &rows.flat_map(|(r, row)| f(r, row)).collect::<Vec<_>>());
}

/// `Σ a·b`.
fn dot<'v>(a: impl IntoIterator<Item = &'v f64>, b: impl IntoIterator<Item = &'v f64>) -> f64 {
    a.into_iter().zip(b).map(|(a, b)| a * b).sum()
}

impl ToyBackend {
    /// A backend of its own.
    pub fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            device: DeviceId::unique("toy", 0),
            in_use: Arc::default(),
            high_water: zero(),
            launches: zero(),
            allocations: zero(),
            writes: zero(),
            reads: zero(),
            multiple: None,
        }
    }

    /// A backend that wants prompts in multiples of so many rows.
    pub fn padding(multiple: usize) -> Self {
        Self { multiple: Some(multiple), ..Self::new() }
    }

    /// Takes an operation apart and counts it.
    fn begin<O: Op>(&self, op: Checked<O>) -> Result<O> {
        self.launches.fetch_add(1, Relaxed);
        op.on(self.device)
    }

    /// Whether a tensor's bytes `offset .. offset + len` may be touched.
    fn range(&self, op: &'static str, tensor: &ToyTensor, offset: usize, len: usize) -> Result<()> {
        if tensor.device != self.device {
            let (expected, got) = (self.device, tensor.device);
            return Err(Error::Device { op, operand: "tensor", expected, got });
        }
        if offset.checked_add(len).is_some_and(|end| end <= tensor.bytes.len()) {
            return Ok(());
        }
        let expected = vec![tensor.bytes.len()];
        Err(Error::Shape { op, operand: "bytes", expected, got: vec![offset, len] })
    }
}

impl KernelBackend for ToyBackend {
    type Tensor = ToyTensor;
    type Graph = ();

    fn name(&self) -> &str {
        "toy"
    }
    fn device(&self) -> DeviceId {
        self.device
    }
    fn info(&self) -> DeviceInfo {
        DeviceInfo { id: self.device, name: "toy".into(), features: Vec::new(), total_memory: None }
    }
    fn counters(&self) -> Counters {
        Counters {
            launches: self.launches.load(Relaxed),
            allocations: self.allocations.load(Relaxed),
            writes: self.writes.load(Relaxed),
            reads: self.reads.load(Relaxed),
            ..Counters::default()
        }
    }
    fn memory(&self) -> MemoryInfo {
        let (in_use, high_water) = (self.in_use.load(Relaxed), self.high_water.load(Relaxed));
        MemoryInfo { in_use, high_water, free: None }
    }
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
    fn read_bandwidth(&self) -> Result<f64> {
        let (words, start) = (vec![1u64; 1 << 16], std::time::Instant::now());
        let sum: u64 = std::hint::black_box(&words).iter().sum();
        Ok(8.0 * sum as f64 / start.elapsed().as_secs_f64().max(1e-9))
    }

    fn alloc(&self, shape: &[usize], dtype: DType) -> Result<ToyTensor> {
        let (mut bytes, size) = (Vec::new(), tensor_bytes(shape, dtype)?);
        let full = |_| Error::OutOfMemory { requested: size as u64, free: 0 };
        bytes.try_reserve_exact(size).map_err(full)?;
        bytes.resize(size, 0xff);
        let in_use = self.in_use.fetch_add(bytes.len() as u64, Relaxed) + bytes.len() as u64;
        self.high_water.fetch_max(in_use, Relaxed);
        self.allocations.fetch_add(1, Relaxed);
        let in_use = Arc::clone(&self.in_use);
        Ok(ToyTensor { shape: shape.to_vec(), dtype, device: self.device, bytes, in_use })
    }
    fn upload(&self, shape: &[usize], dtype: DType, fill: Fill<'_>) -> Result<ToyTensor> {
        let mut tensor = self.alloc(shape, dtype)?;
        self.writes.fetch_add(1, Relaxed);
        fill(0, &mut tensor.bytes)?;
        Ok(tensor)
    }
    fn write(&self, dst: &mut ToyTensor, offset: usize, src: &[u8]) -> Result<()> {
        self.range("write", dst, offset, src.len())?;
        self.writes.fetch_add(1, Relaxed);
        dst.bytes[offset..offset + src.len()].copy_from_slice(src);
        Ok(())
    }
    fn read(&self, src: &ToyTensor, offset: usize, out: &mut [u8]) -> Result<()> {
        self.range("read", src, offset, out.len())?;
        self.reads.fetch_add(1, Relaxed);
        out.copy_from_slice(&src.bytes[offset..offset + out.len()]);
        Ok(())
    }
    fn fill_random(&self, dst: &mut ToyTensor, seed: u64, scale: f32) -> Result<()> {
        self.range("fill_random", dst, 0, 0)?;
        if !dst.dtype.is_float() {
            let (op, operand, expected) = ("fill_random", "dst", "a float type");
            return Err(Error::DType { op, operand, expected, got: dst.dtype });
        }
        let count = dst.bytes.len() / dst.dtype.block_bytes();
        let mut bytes = Vec::with_capacity(dst.bytes.len());
        for i in 0..count as u64 {
            encode(dst.dtype, f64::from(random::uniform(seed, i, scale)), &mut bytes);
        }
        dst.bytes = bytes;
        Ok(())
    }
    fn step(
        &self,
        _graph: &mut (),
        first: usize,
        body: &mut (dyn FnMut(&Self, Option<usize>) -> Result<()> + Send),
    ) -> Result<()> {
        body(self, Some(first))
    }

    fn chunk_rows(&self, rows: usize) -> Option<usize> {
        self.multiple.map(|multiple| rows.next_multiple_of(multiple))
    }

    fn matmul_into(&self, op: Checked<Matmul<'_, ToyTensor>>) -> Result<()> {
        let Matmul { x, w, out, accumulate, layout } = self.begin(op)?;
        let (k, n) = (x.n_cols(), out.n_cols());
        let (xs, ws) = (load(&x), load(&w));
        let mut sums = if accumulate { load(&out.as_mat()) } else { vec![0.0; x.n_rows() * n] };
        for (i, sum) in sums.iter_mut().enumerate() {
            let (row, col) = (&xs[i / n * k..][..k], i % n);
            *sum += match layout {
                WeightLayout::OutIn => dot(row, &ws[col * k..][..k]),
                WeightLayout::InOut => dot(row, ws.iter().skip(col).step_by(n)),
            };
        }
        store(out, &sums);
        Ok(())
    }
    fn rmsnorm_into(&self, op: Checked<RmsNorm<'_, ToyTensor>>) -> Result<()> {
        let RmsNorm { io, weight, eps } = self.begin(op)?;
        let weight = load(&weight);
        map_rows(io, |_, x| {
            let scale = (dot(x, x) / x.len() as f64 + f64::from(eps)).sqrt();
            x.iter().zip(&weight).map(|(x, w)| x * w / scale).collect()
        });
        Ok(())
    }
    fn softmax_into(&self, op: Checked<Softmax<'_, ToyTensor>>) -> Result<()> {
        map_rows(self.begin(op)?.io, |_, x| {
            let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> = x.iter().map(|x| (x - max).exp()).collect();
            let sum: f64 = powers.iter().sum();
            powers.iter().map(|p| p / sum).collect()
        });
        Ok(())
    }
    fn silu_into(&self, op: Checked<Silu<'_, ToyTensor>>) -> Result<()> {
        map_rows(self.begin(op)?.io, |_, x| x.iter().map(|x| x / (1.0 + (-x).exp())).collect());
        Ok(())
    }
    fn apply_rope_into(&self, op: Checked<ApplyRope<'_, ToyTensor>>) -> Result<()> {
        let ApplyRope { io, cos, sin, at, head_dim } = self.begin(op)?;
        let (cos, sin, positions, half) = (load(&cos), load(&sin), load(&at.positions), head_dim / 2);
        map_rows(io, |r, x| {
            let from = positions[r] as usize * half;
            let (Some(cos), Some(sin)) = (cos.get(from..from + half), sin.get(from..from + half)) else {
                return vec![f64::NAN; x.len()];
            };
            let turn = |head: &[f64]| {
                let (a, b) = head.split_at(half);
                let first = (0..half).map(|i| a[i] * cos[i] - b[i] * sin[i]);
                first.chain((0..half).map(|i| b[i] * cos[i] + a[i] * sin[i])).collect::<Vec<_>>()
            };
            x.chunks(head_dim).flat_map(turn).collect()
        });
        Ok(())
    }
    fn compute_attention_scores_into(
        &self,
        op: Checked<ComputeAttentionScores<'_, ToyTensor>>,
    ) -> Result<()> {
        let ComputeAttentionScores { q, k, heads, scale, out } = self.begin(op)?;
        let Heads { n_heads, head_dim: dim, .. } = heads;
        let (keys, width, qs, ks) = (k.n_rows(), heads.kv_dim(), load(&q), load(&k));
        let score = |i: usize| {
            // Rows of heads are one after the other, and so are the heads of a row.
            let (query, key) = (i / keys, i % keys * width + i / keys % n_heads / heads.group() * dim);
            f64::from(scale) * dot(&qs[query * dim..][..dim], &ks[key..][..dim])
        };
        store(out, &(0..q.n_rows() * n_heads * keys).map(score).collect::<Vec<_>>());
        Ok(())
    }
    fn weighted_sum_rows_into(&self, op: Checked<WeightedSumRows<'_, ToyTensor>>) -> Result<()> {
        let WeightedSumRows { weights, rows, heads, out } = self.begin(op)?;
        let (n, dim, ws, xs) = (weights.n_cols(), heads.head_dim, load(&weights), load(&rows));
        let sum = |i: usize| {
            let kv_head = i / dim % heads.n_heads / heads.group();
            dot(&ws[i / dim * n..][..n], xs.iter().skip(kv_head * dim + i % dim).step_by(heads.kv_dim()))
        };
        store(out, &(0..weights.n_rows() * dim).map(sum).collect::<Vec<_>>());
        Ok(())
    }
    fn add_into(&self, op: Checked<Add<'_, ToyTensor>>) -> Result<()> {
        let Add { io, y } = self.begin(op)?;
        let (ys, cols) = (load(&y), y.n_cols());
        map_rows(io, |r, x| x.iter().zip(&ys[r * cols..]).map(|(x, y)| x + y).collect());
        Ok(())
    }
    fn mul_into(&self, op: Checked<Mul<'_, ToyTensor>>) -> Result<()> {
        let Mul { io, y } = self.begin(op)?;
        let (ys, cols) = (load(&y), y.n_cols());
        map_rows(io, |r, x| x.iter().zip(&ys[r * cols..]).map(|(x, y)| x * y).collect());
        Ok(())
    }
    fn embed_into(&self, op: Checked<Embed<'_, ToyTensor>>) -> Result<()> {
        let Embed { table, ids, out } = self.begin(op)?;
        let mut rows = Vec::with_capacity(out.n_rows() * out.n_cols());
        for id in load(&ids) {
            match table.rows(id as usize..id as usize + 1) {
                Ok(row) => rows.extend(load(&row)),
                Err(_) => rows.extend(vec![f64::NAN; table.n_cols()]),
            }
        }
        store(out, &rows);
        Ok(())
    }
    fn append_rows_into(&self, op: Checked<AppendRows<'_, ToyTensor>>) -> Result<()> {
        let AppendRows { src, mut dst, at } = self.begin(op)?;
        for (i, position) in load(&at.positions).into_iter().enumerate() {
            let position = position as usize;
            if let Ok(row) = dst.by_ref().rows(position..position + 1) {
                store(row, &load(&src.rows(i..i + 1)?));
            }
        }
        Ok(())
    }
    fn argmax_into(&self, op: Checked<Argmax<'_, ToyTensor>>) -> Result<()> {
        let Argmax { logits, id, position } = self.begin(op)?;
        let (values, cols) = (load(&logits), logits.n_cols());
        let ids = (0..logits.n_rows()).map(|r| f64::from(argmax::row(&values[r * cols..][..cols])));
        store(id, &ids.collect::<Vec<_>>());
        if let Some(position) = position {
            let next: Vec<f64> = load(&position.as_mat()).iter().map(|p| p + 1.0).collect();
            store(position, &next);
        }
        Ok(())
    }
    fn sample_into(&self, op: Checked<Sample<'_, ToyTensor>>) -> Result<()> {
        let Sample { logits, mut history, id, position, params } = self.begin(op)?;
        let at = load(&position.as_mat()).iter().sum::<f64>() as u32;
        let ids: Vec<u32> = load(&history.as_mat()).iter().map(|id| *id as u32).collect();
        let seen = &ids[..ids.len().min(at as usize + 1)];
        let chosen = f64::from(sample::choose(&load(&logits), seen, at, &params));
        store(id, &[chosen]);
        store(position, &[f64::from(at.wrapping_add(1))]);
        if let Ok(next) = history.by_ref().cols(at as usize + 1..at as usize + 2) {
            store(next, &[chosen]);
        }
        Ok(())
    }
}
