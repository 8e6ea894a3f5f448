//! From an operation of the contract to a product of the library.

use backend_api::ops::{Matmul, WeightLayout};
use backend_api::{Checked, DType, DeviceTensor, Error, KernelBackend, Mat, MatMut, Result, Window};

use super::Handle;
use super::choice::{By, Product, choose};
use super::problem::{Gemm, Rows};
use crate::launch::Scalar;
use crate::tensor::write;
use crate::{CudaBackend, CudaTensor, graph};

/// Computes the product if the library is to; says who is to otherwise. `streams` as in [`Product`].
pub(crate) fn matmul(
    b: &CudaBackend,
    x: &Mat<'_, CudaTensor>,
    w: &Mat<'_, CudaTensor>,
    out: &mut MatMut<'_, CudaTensor>,
    accumulate: bool,
    layout: WeightLayout,
    streams: bool,
) -> Result<By> {
    let gemm = gemm(x, w, out, accumulate, layout);
    let (x, w, out) = (gemm.x.dtype, gemm.w.dtype, gemm.out.dtype);
    let product = Product { m: gemm.m, streams, x, w, out, accumulate };
    let choose = |library| choose(&product, library);
    if choose(true) != By::Library {
        return Ok(choose(true));
    }
    match b.inner.blas.get(&b.inner.device, &b.inner.pool) {
        Ok(handle) if queue(b, handle, &gemm)? => Ok(By::Library),
        _ => Ok(choose(false)),
    }
}

/// Opens the library where there is one, and queues a small product with weights of this type: the first of a process waits
/// for what the library then loads, 70 ms with cuBLASLt 13.1 on an H200.
pub(crate) fn start(b: &CudaBackend, dtype: DType) -> Result<()> {
    if !is_there(b) {
        return Ok(());
    }
    let zeros = |rows| {
        let mut tensor = b.alloc(&[rows, 64], dtype)?;
        let bytes = vec![0; tensor.bytes()];
        b.write(&mut tensor, 0, &bytes)?;
        Ok::<_, Error>(tensor)
    };
    b.matmul(&zeros(16)?, &zeros(64)?).map(drop)
}

/// Whether products of many rows go to the library; opens it.
pub(crate) fn is_there(b: &CudaBackend) -> bool {
    b.inner.blas.get(&b.inner.device, &b.inner.pool).is_ok()
}

fn gemm(
    x: &Mat<'_, CudaTensor>,
    w: &Mat<'_, CudaTensor>,
    out: &mut MatMut<'_, CudaTensor>,
    accumulate: bool,
    layout: WeightLayout,
) -> Gemm {
    let rows = |tensor: &CudaTensor, window: Window| Rows {
        address: tensor.at(window.offset),
        stride: window.stride as u64,
        dtype: tensor.dtype(),
    };
    let (m, n, k) = (x.n_rows() as u64, out.n_cols() as u64, x.n_cols() as u64);
    // Notes that what is queued next writes it.
    let (_, stride) = write::<Scalar>(out);
    let out = Rows { stride, ..rows(out.tensor(), out.window()) };
    Gemm {
        m,
        n,
        k,
        x: rows(x.tensor(), x.window()),
        w: rows(w.tensor(), w.window()),
        layout,
        out,
        accumulate,
    }
}

/// False if the library has no counterpart.
fn queue(b: &CudaBackend, handle: &Handle, gemm: &Gemm) -> Result<bool> {
    #[expect(unsafe_code, reason = "queues a product")]
    // SAFETY: the operands are windows of tensors, checked to have this extent; the stream is the backend's one.
    let is_done = unsafe { handle.matmul(graph::stream(&b.inner.device), gemm)? };
    if is_done {
        b.count_launch();
    }
    Ok(is_done)
}

impl CudaBackend {
    /// Name and version of the library that products of many rows use; opens it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where none is found, with what was searched; every operation works without.
    pub fn cublas(&self) -> Result<String> {
        let inner = &self.inner;
        Ok(inner.blas.get(&inner.device, &inner.pool)?.describe())
    }

    /// A product through cuBLASLt whatever its shape, to compare with.
    ///
    /// # Errors
    /// As [`CudaBackend::cublas`]; [`Error::Unsupported`] where the library has no counterpart.
    #[doc(hidden)]
    pub fn cublas_matmul_into(&self, op: Checked<Matmul<'_, CudaTensor>>) -> Result<()> {
        let Matmul { x, w, mut out, accumulate, layout } = op.on(self.device())?;
        let handle = self.inner.blas.get(&self.inner.device, &self.inner.pool)?;
        if queue(self, handle, &gemm(&x, &w, &mut out, accumulate, layout))? {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: "this product through cuBLAS".into(),
            supported: "sides of 1 to 2^31 - 1, f32, f16 or bf16 with an output of that type or f32".into(),
        })
    }
}
