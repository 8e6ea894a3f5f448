//! Tensors in device memory.

use std::sync::Arc;

use backend_api::{DType, DeviceId, DeviceTensor, Mat, MatMut};

use crate::device::DeviceMemory;
use crate::launch::{In, Out};
use crate::pool::Block;

/// A tensor in the memory of a GPU.
#[must_use]
pub struct CudaTensor {
    pub(crate) block: Arc<Block<DeviceMemory>>,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: DType,
    pub(crate) device: DeviceId,
}

impl std::fmt::Debug for CudaTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaTensor")
            .field("shape", &self.shape)
            .field("dtype", &self.dtype)
            .finish_non_exhaustive()
    }
}

impl DeviceTensor for CudaTensor {
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

impl CudaTensor {
    pub(crate) fn bytes(&self) -> usize {
        self.block.bytes() as usize
    }

    fn at(&self, element: usize) -> u64 {
        self.block.address().wrapping_add(self.dtype.bytes(element).unwrap_or(0) as u64)
    }
}

/// A window that a kernel reads, and the step between its rows.
pub(crate) fn read<'a, E>(m: &Mat<'a, CudaTensor>) -> (In<'a, E>, u64) {
    let w = m.window();
    (In::new(m.tensor().at(w.offset), w.extent()), w.stride as u64)
}

/// Whether each row of a window begins at a multiple of 16 bytes.
pub(crate) fn aligned(m: &Mat<'_, CudaTensor>) -> bool {
    let w = m.window();
    let step = if w.rows > 1 { m.tensor().dtype.bytes(w.stride).unwrap_or(1) } else { 0 };
    m.tensor().at(w.offset).is_multiple_of(16) && step.is_multiple_of(16)
}

/// A window that a kernel writes, and the step between its rows.
pub(crate) fn write<'a, E>(m: &mut MatMut<'a, CudaTensor>) -> (Out<'a, E>, u64) {
    let w = m.window();
    (Out::new(m.tensor().at(w.offset), w.extent()), w.stride as u64)
}
