//! Tensors of whichever backend was chosen.

use backend_api::{DType, DeviceId, DeviceTensor, KernelBackend, Result};
use backend_cpu::CpuTensor;

use crate::Backend;

/// A tensor of a [`Backend`], on the device that the backend runs on.
#[derive(Debug)]
#[must_use]
#[non_exhaustive]
pub enum UnifiedTensor {
    /// In host memory.
    Cpu(CpuTensor),
}

impl DeviceTensor for UnifiedTensor {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Cpu(t) => t.shape(),
        }
    }

    fn dtype(&self) -> DType {
        match self {
            Self::Cpu(t) => t.dtype(),
        }
    }

    fn device(&self) -> DeviceId {
        match self {
            Self::Cpu(t) => t.device(),
        }
    }
}

impl UnifiedTensor {
    /// A copy on another live backend, streamed through its staging; makes no context.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the tensor is not `from`'s, and those of reading and of uploading.
    pub fn to_device(&self, from: &Backend, to: &Backend) -> Result<Self> {
        to.upload(self.shape(), self.dtype(), &|offset, out| from.read(self, offset, out))
    }
}

/// A backend's own tensor inside a [`UnifiedTensor`].
pub(crate) trait Part: Sized {
    fn read(tensor: &UnifiedTensor) -> Result<&Self>;
    fn write(tensor: &mut UnifiedTensor) -> Result<&mut Self>;
}

impl Part for CpuTensor {
    fn read(tensor: &UnifiedTensor) -> Result<&Self> {
        match tensor {
            UnifiedTensor::Cpu(t) => Ok(t),
        }
    }

    fn write(tensor: &mut UnifiedTensor) -> Result<&mut Self> {
        match tensor {
            UnifiedTensor::Cpu(t) => Ok(t),
        }
    }
}
