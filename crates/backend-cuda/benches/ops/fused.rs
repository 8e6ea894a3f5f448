//! The fused operations of a layer in the shape of Mistral-7B: those of one token, and what follows the products of a prompt.

use backend_cuda::backend_api::ops::{NormQkvRopeAppend, NormSwiglu};
use backend_cuda::{At, CudaBackend, CudaTensor, DType, HostTensor, KernelBackend, Mat, MatMut, Result};

use crate::heads::HEADS;
use crate::measure::{Bench, Bound, Case, Cost, Work, issue, random, sets};
use crate::tokens::{HIDDEN, PROMPT};

const FFN: usize = 14_336;

/// Inputs of a product that is checked with the rest of its operation and does not run.
const UNUSED: usize = 8;

type T = CudaTensor;

pub(crate) fn all(bench: &mut Bench) {
    let qkv = HEADS.qkv_dim();
    for dtype in [DType::BF16, DType::F32] {
        let token =
            |op, outputs: usize| Case::new(op, format!("1 × {outputs} × {HIDDEN}"), dtype, Bound::Read);
        bench.run(token("norm_qkv_rope_append", qkv), |b| norm_qkv_rope_append(b, dtype));
        bench.run(token("norm_swiglu", 2 * FFN), |b| norm_swiglu(b, 1, dtype));
        let prompt = |op, cols: usize| Case::new(op, format!("{PROMPT} × {cols}"), dtype, Bound::Copy);
        bench.run(prompt("rope_append", qkv), |b| rope_append(b, dtype));
        bench.run(prompt("swiglu", FFN), |b| swiglu(b, dtype));
    }
    let dtype = DType::BF16;
    for rows in [512, PROMPT] {
        let shape = format!("{rows} × {} × {HIDDEN}", 2 * FFN);
        bench.run(Case::new("norm_swiglu", shape, dtype, Bound::Read), |b| norm_swiglu(b, rows, dtype));
    }
}

/// What the front of a layer reads and every turn shares.
struct Front {
    x: T,
    norm: T,
    cos: T,
    sin: T,
    positions: T,
    scratch: T,
}

impl Front {
    fn new(b: &CudaBackend, rows: usize, hidden: usize, dtype: DType) -> Result<Self> {
        let half = HEADS.head_dim / 2;
        let angle = |i: usize| (i / half) as f32 * 1e4f32.powf((i % half) as f32 / -(half as f32));
        let table = |of: fn(f32) -> f32| {
            let turns = (0..rows * half).map(|i| of(angle(i))).collect();
            b.to_device(&HostTensor::from_vec(&[rows, half], turns)?)
        };
        Ok(Self {
            x: random(b, &[rows, hidden], DType::F32)?,
            norm: random(b, &[hidden], dtype)?,
            cos: table(f32::cos)?,
            sin: table(f32::sin)?,
            positions: b.to_device(&HostTensor::from_vec(&[rows], (0..rows as u32).collect())?)?,
            scratch: b.alloc(&[rows, hidden], dtype)?,
        })
    }

    fn op<'a>(&'a mut self, w: &'a T, [qkv, k, v]: &'a mut [T; 3]) -> NormQkvRopeAppend<'a, T> {
        NormQkvRopeAppend {
            x: Mat::new(&self.x),
            norm: Mat::vector(&self.norm),
            eps: 1e-5,
            w: Mat::new(w),
            heads: HEADS,
            cos: Mat::new(&self.cos),
            sin: Mat::new(&self.sin),
            at: At { positions: Mat::vector(&self.positions), first: Some(0), distinct: false },
            qkv: MatMut::new(qkv),
            k: MatMut::new(k),
            v: MatMut::new(v),
            scratch: MatMut::new(&mut self.scratch),
        }
    }
}

/// Projections of so many rows, and caches for them.
fn projected(b: &CudaBackend, rows: usize, dtype: DType) -> Result<[T; 3]> {
    let cache = || b.alloc(&[rows, HEADS.kv_dim()], dtype);
    Ok([random(b, &[rows, HEADS.qkv_dim()], dtype)?, cache()?, cache()?])
}

fn norm_qkv_rope_append(b: &CudaBackend, dtype: DType) -> Result<Work> {
    let shape = [HEADS.qkv_dim(), HIDDEN];
    let n = sets(dtype.bytes(shape[0] * shape[1]).unwrap());
    let weights = (0..n).map(|_| random(b, &shape, dtype)).collect::<Result<Vec<_>>>()?;
    let (mut front, mut out) = (Front::new(b, 1, HIDDEN, dtype)?, projected(b, 1, dtype)?);
    Ok(Work::new(n, move |b, i| issue(front.op(&weights[i], &mut out), |op| b.norm_qkv_rope_append(op))))
}

fn rope_append(b: &CudaBackend, dtype: DType) -> Result<Work> {
    let moved = dtype.bytes(PROMPT * HEADS.qkv_dim()).unwrap();
    let tables = 4 * PROMPT * HEADS.head_dim;
    let cost = Cost { bytes: (2 * moved + tables) as u64, flops: 0 };
    let n = sets(moved);
    let mut sets = (0..n).map(|_| projected(b, PROMPT, dtype)).collect::<Result<Vec<_>>>()?;
    let w = random(b, &[HEADS.qkv_dim(), UNUSED], dtype)?;
    let mut front = Front::new(b, PROMPT, UNUSED, dtype)?;
    Ok(Work::new(n, move |b, i| issue(front.op(&w, &mut sets[i]), |op| b.rope_append_into(op)).map(|_| cost)))
}

/// What the front of a feed-forward layer reads and every turn shares.
struct Gate {
    x: T,
    norm: T,
    scratch: T,
}

impl Gate {
    fn new(b: &CudaBackend, rows: usize, hidden: usize, dtype: DType) -> Result<Self> {
        let (x, norm) = (random(b, &[rows, hidden], DType::F32)?, random(b, &[hidden], dtype)?);
        Ok(Self { x, norm, scratch: b.alloc(&[rows, hidden], dtype)? })
    }

    fn op<'a>(&'a mut self, w: &'a T, [gate_up, out]: &'a mut [T; 2]) -> NormSwiglu<'a, T> {
        NormSwiglu {
            x: Mat::new(&self.x),
            norm: Mat::vector(&self.norm),
            eps: 1e-5,
            w: Mat::new(w),
            out: MatMut::new(out),
            scratch: MatMut::new(&mut self.scratch),
            gate_up: MatMut::new(gate_up),
        }
    }
}

/// Gate and up of so many rows, and room for what becomes of them.
fn gated(b: &CudaBackend, rows: usize, dtype: DType) -> Result<[T; 2]> {
    Ok([random(b, &[rows, 2 * FFN], dtype)?, b.alloc(&[rows, FFN], dtype)?])
}

fn norm_swiglu(b: &CudaBackend, rows: usize, dtype: DType) -> Result<Work> {
    let shape = [2 * FFN, HIDDEN];
    let n = sets(dtype.bytes(shape[0] * shape[1]).unwrap());
    let weights = (0..n).map(|_| random(b, &shape, dtype)).collect::<Result<Vec<_>>>()?;
    let (mut gate, mut out) = (Gate::new(b, rows, HIDDEN, dtype)?, gated(b, rows, dtype)?);
    Ok(Work::new(n, move |b, i| issue(gate.op(&weights[i], &mut out), |op| b.norm_swiglu(op))))
}

fn swiglu(b: &CudaBackend, dtype: DType) -> Result<Work> {
    let read = dtype.bytes(PROMPT * 2 * FFN).unwrap();
    let cost = Cost { bytes: (read + read / 2) as u64, flops: 0 };
    let n = sets(read);
    let mut sets = (0..n).map(|_| gated(b, PROMPT, dtype)).collect::<Result<Vec<_>>>()?;
    let w = random(b, &[2 * FFN, UNUSED], dtype)?;
    let mut gate = Gate::new(b, PROMPT, UNUSED, dtype)?;
    Ok(Work::new(n, move |b, i| issue(gate.op(&w, &mut sets[i]), |op| b.swiglu_into(op)).map(|_| cost)))
}
