//! Tensors of whichever backend was chosen.

use std::any::Any;

use backend_api::{DType, DeviceId, DeviceTensor, Error, KernelBackend, Result};
use backend_cpu::CpuTensor;
#[cfg(feature = "cuda")]
use backend_cuda::CudaTensor;

use crate::Backend;

/// A tensor of a [`Backend`], on the device that the backend runs on.
#[derive(Debug)]
#[must_use]
#[non_exhaustive]
pub enum UnifiedTensor {
    /// In host memory.
    Cpu(CpuTensor),
    /// In the memory of an NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda(CudaTensor),
}

/// Runs `$body` with `$t` as the backend's own tensor.
macro_rules! own {
    ($tensor:expr, $t:ident => $body:expr) => {
        match $tensor {
            UnifiedTensor::Cpu($t) => $body,
            #[cfg(feature = "cuda")]
            UnifiedTensor::Cuda($t) => $body,
        }
    };
}

impl From<CpuTensor> for UnifiedTensor {
    fn from(tensor: CpuTensor) -> Self {
        Self::Cpu(tensor)
    }
}

#[cfg(feature = "cuda")]
impl From<CudaTensor> for UnifiedTensor {
    fn from(tensor: CudaTensor) -> Self {
        Self::Cuda(tensor)
    }
}

impl DeviceTensor for UnifiedTensor {
    fn shape(&self) -> &[usize] {
        own!(self, t => t.shape())
    }

    fn dtype(&self) -> DType {
        own!(self, t => t.dtype())
    }

    fn device(&self) -> DeviceId {
        own!(self, t => t.device())
    }
}

impl UnifiedTensor {
    /// A copy on another live backend, or a second one on the same, streamed through its staging; makes no context.
    ///
    /// # Errors
    /// [`Error::Device`] if the tensor is not `from`'s, and those of reading and of uploading.
    pub fn to_device(&self, from: &Backend, to: &Backend) -> Result<Self> {
        to.upload(self.shape(), self.dtype(), &|offset, out| from.read(self, offset, out))
    }

    /// The tensor as `backend` knows it.
    pub(crate) fn part<B: KernelBackend<Tensor: Any>>(&self, backend: &B) -> Result<&B::Tensor> {
        let part = own!(self, t => (t as &dyn Any).downcast_ref());
        part.ok_or_else(|| foreign(backend.device(), self.device()))
    }

    /// As [`part`](Self::part), to be written.
    pub(crate) fn part_mut<B: KernelBackend<Tensor: Any>>(&mut self, backend: &B) -> Result<&mut B::Tensor> {
        let got = self.device();
        let part = own!(self, t => (t as &mut dyn Any).downcast_mut());
        part.ok_or_else(|| foreign(backend.device(), got))
    }
}

fn foreign(expected: DeviceId, got: DeviceId) -> Error {
    Error::Device { op: "transfer", operand: "tensor", expected, got }
}
