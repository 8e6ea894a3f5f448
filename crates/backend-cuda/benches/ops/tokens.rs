//! What lies between tokens and the layers: embedding, cache, choice of the next token.

use backend_cuda::backend_api::ops::{AppendRows, Argmax, Embed, Sample, SampleParams};
use backend_cuda::{At, CudaBackend, CudaTensor, DType, HostTensor, KernelBackend, Mat, MatMut, Result};

use crate::measure::{Bench, Bound, Case, Work, issue, random, sets};

const VOCAB: usize = 32_000;
pub(crate) const HIDDEN: usize = 4096;
/// Elements of a token's keys.
const KV_DIM: usize = 1024;
/// Tokens of a prompt.
pub(crate) const PROMPT: usize = 2048;
/// Positions of a cache.
const CONTEXT: usize = 32_768;

pub(crate) fn all(bench: &mut Bench) {
    for dtype in [DType::BF16, DType::F32] {
        let rows = |op, rows, cols| Case::new(op, format!("{rows} × {cols}"), dtype, Bound::Copy);
        bench.run(rows("embed", PROMPT, HIDDEN), |b| embed(b, dtype));
        bench.run(rows("append_rows", PROMPT, KV_DIM), |b| append_rows(b, dtype));
        let logits = |op| Case::new(op, format!("{VOCAB} logits"), dtype, Bound::Read);
        bench.run(logits("argmax"), |b| argmax(b, dtype));
        bench.run(logits("sample"), |b| sample(b, dtype));
    }
}

fn ids(b: &CudaBackend, ids: impl Iterator<Item = usize>) -> Result<CudaTensor> {
    let ids: Vec<u32> = ids.map(|id| id as u32).collect();
    b.to_device(&HostTensor::from_vec(&[ids.len()], ids)?)
}

fn embed(b: &CudaBackend, dtype: DType) -> Result<Work> {
    let table = random(b, &[VOCAB, HIDDEN], dtype)?;
    let n = sets(dtype.bytes(PROMPT * HIDDEN).unwrap());
    // Multiples of a prime that does not divide the vocabulary: every row once, in no order.
    let set = |i| {
        Ok((
            ids(b, (0..PROMPT).map(|j| (i * PROMPT + j) * 7919 % VOCAB))?,
            b.alloc(&[PROMPT, HIDDEN], dtype)?,
        ))
    };
    let mut sets = (0..n).map(set).collect::<Result<Vec<_>>>()?;
    Ok(Work::new(n, move |b, i| {
        let (ids, out) = &mut sets[i];
        let op = Embed { table: Mat::new(&table), ids: Mat::vector(ids), out: MatMut::new(out) };
        issue(op, |op| b.embed_into(op))
    }))
}

fn append_rows(b: &CudaBackend, dtype: DType) -> Result<Work> {
    let n = sets(dtype.bytes(PROMPT * KV_DIM).unwrap());
    let sources = (0..n).map(|_| random(b, &[PROMPT, KV_DIM], dtype)).collect::<Result<Vec<_>>>()?;
    let caches = n.div_ceil(CONTEXT / PROMPT);
    let mut caches = (0..caches).map(|_| b.alloc(&[CONTEXT, KV_DIM], dtype)).collect::<Result<Vec<_>>>()?;
    let positions = ids(b, 0..CONTEXT)?;
    Ok(Work::new(n, move |b, i| {
        let place = i % (CONTEXT / PROMPT) * PROMPT;
        let positions = Mat::vector(&positions).cols(place..place + PROMPT)?;
        let at = At { positions, first: Some(place), distinct: false };
        let dst = MatMut::new(&mut caches[i / (CONTEXT / PROMPT)]);
        issue(AppendRows { src: Mat::new(&sources[i]), dst, at }, |op| b.append_rows_into(op))
    }))
}

fn argmax(b: &CudaBackend, dtype: DType) -> Result<Work> {
    let mut id = b.alloc(&[1], DType::U32)?;
    let n = sets(dtype.bytes(VOCAB).unwrap());
    let logits = random(b, &[n, VOCAB], dtype)?;
    Ok(Work::new(n, move |b, i| {
        let logits = Mat::new(&logits).rows(i..i + 1)?;
        issue(Argmax { logits, id: MatMut::vector(&mut id), position: None }, |op| b.argmax_into(op))
    }))
}

fn sample(b: &CudaBackend, dtype: DType) -> Result<Work> {
    let (mut id, mut position) = (b.alloc(&[1], DType::U32)?, ids(b, 0..1)?);
    let mut history = ids(b, 0..CONTEXT)?;
    let n = sets(dtype.bytes(VOCAB).unwrap());
    let logits = random(b, &[n, VOCAB], dtype)?;
    let params =
        SampleParams { temperature: 0.8, top_k: 40, top_p: 0.95, seed: 1, ..SampleParams::default() };
    Ok(Work::new(n, move |b, i| {
        let op = Sample {
            logits: Mat::new(&logits).rows(i..i + 1)?,
            history: MatMut::vector(&mut history),
            id: MatMut::vector(&mut id),
            position: MatMut::vector(&mut position),
            params,
        };
        issue(op, |op| b.sample_into(op))
    }))
}
