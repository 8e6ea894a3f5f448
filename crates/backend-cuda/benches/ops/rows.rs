//! Rowwise and elementwise operations on `[65536, 8192]`.

use backend_cuda::backend_api::ops::{Add, ApplyRope, Mul, RmsNorm, Silu, Softmax};
use backend_cuda::{At, CudaBackend, CudaTensor, DType, HostTensor, Io, KernelBackend, Mat, MatMut, Result};

use crate::measure::{Bench, Bound, Case, Cost, Work, issue, random, sets};
use crate::tokens::{HIDDEN, PROMPT};

const ROWS: usize = 65_536;
const COLS: usize = 8192;
const HEAD_DIM: usize = 128;

type T = CudaTensor;

pub(crate) fn all(bench: &mut Bench) {
    for dtype in [DType::BF16, DType::F32] {
        let case = |op| Case::new(op, format!("{ROWS} × {COLS}"), dtype, Bound::Copy);
        bench.run(case("rmsnorm"), |b| {
            let weight = random(b, &[COLS], dtype)?;
            one_input(b, dtype, move |b, io| {
                issue(RmsNorm { io, weight: Mat::vector(&weight), eps: 1e-5 }, |op| b.rmsnorm_into(op))
            })
        });
        bench.run(case("softmax"), |b| {
            one_input(b, dtype, |b, io| issue(Softmax { io }, |op| b.softmax_into(op)))
        });
        bench.run(case("silu"), |b| one_input(b, dtype, |b, io| issue(Silu { io }, |op| b.silu_into(op))));
        bench.run(case("apply_rope"), |b| apply_rope(b, dtype));
        bench
            .run(case("add"), |b| two_inputs(b, dtype, |b, io, y| issue(Add { io, y }, |op| b.add_into(op))));
        bench
            .run(case("mul"), |b| two_inputs(b, dtype, |b, io, y| issue(Mul { io, y }, |op| b.mul_into(op))));
    }
    // As a prompt takes it: the stream is in f32, the product's operand in 16 bits.
    let case = Case::new("rmsnorm", format!("{PROMPT} × {HIDDEN}, f32 to bf16"), DType::F32, Bound::Copy);
    bench.run(case, norm_of_prompt);
}

fn norm_of_prompt(b: &CudaBackend) -> Result<Work> {
    let n = sets(6 * PROMPT * HIDDEN);
    let set = |_| Ok((random(b, &[PROMPT, HIDDEN], DType::F32)?, b.alloc(&[PROMPT, HIDDEN], DType::BF16)?));
    let mut sets = (0..n).map(set).collect::<Result<Vec<_>>>()?;
    let weight = random(b, &[HIDDEN], DType::BF16)?;
    Ok(Work::new(n, move |b, i| {
        let (x, out) = &mut sets[i];
        let io = Io::Into(Mat::new(x), MatMut::new(out));
        issue(RmsNorm { io, weight: Mat::vector(&weight), eps: 1e-5 }, |op| b.rmsnorm_into(op))
    }))
}

/// An input and an output are many times what the L2 holds, so that one pair of them is enough.
fn one_input(
    b: &CudaBackend,
    dtype: DType,
    mut run: impl FnMut(&CudaBackend, Io<'_, T>) -> Result<Cost> + Send + 'static,
) -> Result<Work> {
    let x = random(b, &[ROWS, COLS], dtype)?;
    let mut out = b.alloc(&[ROWS, COLS], dtype)?;
    Ok(Work::new(1, move |b, _| run(b, Io::Into(Mat::new(&x), MatMut::new(&mut out)))))
}

fn two_inputs(
    b: &CudaBackend,
    dtype: DType,
    mut run: impl FnMut(&CudaBackend, Io<'_, T>, Mat<'_, T>) -> Result<Cost> + Send + 'static,
) -> Result<Work> {
    let y = random(b, &[ROWS, COLS], dtype)?;
    one_input(b, dtype, move |b, io| run(b, io, Mat::new(&y)))
}

fn apply_rope(b: &CudaBackend, dtype: DType) -> Result<Work> {
    let table = || random(b, &[ROWS, HEAD_DIM / 2], DType::F32);
    let (cos, sin) = (table()?, table()?);
    let positions = HostTensor::from_vec(&[ROWS], (0..ROWS as u32).collect())?;
    let positions = b.to_device(&positions)?;
    one_input(b, dtype, move |b, io| {
        let at = At { positions: Mat::vector(&positions), first: None, distinct: false };
        let op = ApplyRope { io, cos: Mat::new(&cos), sin: Mat::new(&sin), at, head_dim: HEAD_DIM };
        issue(op, |op| b.apply_rope_into(op))
    })
}
