//! Products with weights: of one row, and of many.

use backend_cuda::backend_api::ops::{
    Matmul,
    WeightLayout::{self, InOut, OutIn},
};
use backend_cuda::{CudaBackend, CudaTensor, DType, KernelBackend, Mat, MatMut, Result};

use crate::measure::{Bench, Bound, By, Case, Cost, Work, issue, random, sets};

/// Rows of `x`, outputs and inputs.
pub(crate) type Shape = (usize, usize, usize);

/// Outputs and inputs of a layer's four products and of the one that gives the logits, in the shape of Mistral-7B.
const LAYERS: [(usize, usize); 5] =
    [(6144, 4096), (4096, 4096), (28_672, 4096), (4096, 14_336), (32_000, 4096)];

pub(crate) fn all(bench: &mut Bench) {
    let bf16 = (DType::BF16, OutIn);
    for dtype in [DType::BF16, DType::F32] {
        for (n, k) in LAYERS {
            run(bench, (1, n, k), (dtype, OutIn), &[By::Torchless, By::Cublas]);
        }
    }
    // One row that the kernel for one row does not take, so that the backend asks cuBLAS: inputs that are no multiple of 8, or
    // too many, and the other layout.
    for (shape, kind) in [
        ((1, 4100, 4100), bf16),
        ((1, 4096, 28_672), (DType::F32, OutIn)),
        ((1, 4096, 4096), (DType::BF16, InOut)),
        ((1, 4096, 4096), (DType::F32, InOut)),
    ] {
        run(bench, shape, kind, &[By::Own, By::Cublas]);
    }
    for m in [16, 64, 512, 2048] {
        for (n, k) in &LAYERS[..4] {
            run(bench, (m, *n, *k), bf16, &[By::Own, By::Cublas]);
        }
    }
    for m in [512, 2048] {
        run(bench, (m, 28_672, 4096), bf16, &[By::Older]);
    }
    for shape in [(64, 4096, 4096), (64, 28_672, 4096), (512, 4096, 4096), (8192, 4096, 4096)] {
        run(bench, shape, (DType::F32, OutIn), &[By::Own, By::Cublas]);
    }
}

fn run(bench: &mut Bench, shape: Shape, kind: (DType, WeightLayout), by: &[By]) {
    by.iter().for_each(|by| run_by(bench, shape, kind, *by));
}

fn run_by(bench: &mut Bench, (m, n, k): Shape, (dtype, layout): (DType, WeightLayout), by: By) {
    let (weights, note) = match layout {
        OutIn => ([n, k], ""),
        InOut => ([k, n], ", plain"),
    };
    let case = Case { by, ..Case::new("matmul", format!("{m} × {n} × {k}{note}"), dtype, Bound::Read) };
    bench.run(case, |b| {
        let count = sets(dtype.bytes(n * k).unwrap());
        let weights = (0..count).map(|_| random(b, &weights, dtype)).collect::<Result<Vec<_>>>()?;
        let x = random(b, &[m, k], dtype)?;
        let mut out = b.alloc(&[m, n], dtype)?;
        Ok(Work::new(count, move |b, i| {
            let op = Matmul { layout, ..matmul(&x, &weights[i], &mut out) };
            match by {
                By::Cublas => issue(op, |op| b.cublas_matmul_into(op)),
                By::Torchless | By::Own | By::Older => issue(op, |op| b.matmul_into(op)),
            }
        }))
    });
}

fn matmul<'a>(x: &'a CudaTensor, w: &'a CudaTensor, out: &'a mut CudaTensor) -> Matmul<'a, CudaTensor> {
    let (x, w, out) = (Mat::new(x), Mat::new(w), MatMut::new(out));
    Matmul { x, w, out, accumulate: false, layout: OutIn }
}

/// A product as the backend runs it.
pub(crate) fn product(b: &CudaBackend, x: &CudaTensor, w: &CudaTensor, out: &mut CudaTensor) -> Result<Cost> {
    issue(matmul(x, w, out), |op| b.matmul_into(op))
}
