//! What a backend tells about itself and its tensors.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{DType, Error, Result};

/// One live backend: memory of one is refused by the operations of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceId {
    kind: &'static str,
    ordinal: usize,
    instance: u64,
}

impl DeviceId {
    /// An id that no other backend of this process has. `kind` is `cpu`, `cuda`, …; `ordinal` counts devices of it.
    pub fn unique(kind: &'static str, ordinal: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { kind, ordinal, instance: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// `cpu`, `cuda`, …
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Which device of its kind.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} (backend {})", self.kind, self.ordinal, self.instance)
    }
}

/// A device as reports show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Which live backend.
    pub id: DeviceId,
    /// Product name.
    pub name: String,
    /// What it can do: instruction sets, compute capability, threads.
    pub features: Vec<String>,
    /// Memory in bytes, where known.
    pub total_memory: Option<u64>,
}

/// What a backend has done since it was made. Differences of two readings prove what a piece of code did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Operations or kernels that ran, replays left out.
    pub launches: u64,
    /// Tensors allocated, and what the backend allocates for its own use.
    pub allocations: u64,
    /// Copies from the host.
    pub writes: u64,
    /// Copies to the host.
    pub reads: u64,
    /// Steps captured.
    pub captures: u64,
    /// Captured steps run again.
    pub replays: u64,
}

/// Device memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Held by live tensors.
    pub in_use: u64,
    /// Most that was ever in use.
    pub high_water: u64,
    /// Still to be had, where known.
    pub free: Option<u64>,
}

/// Owned, contiguous, row-major device memory. Never `Clone`: `&T` reads and `&mut T` writes.
pub trait DeviceTensor: Send + Sync {
    /// Lengths of the dimensions, slowest first. Their product does not overflow.
    fn shape(&self) -> &[usize];
    /// Type of the elements.
    fn dtype(&self) -> DType;
    /// Backend that it belongs to.
    fn device(&self) -> DeviceId;
}

/// Bytes of a tensor.
///
/// # Errors
/// [`Error::TooLarge`] if the size overflows, [`Error::Shape`] if the elements do not fill whole blocks.
pub fn tensor_bytes(shape: &[usize], dtype: DType) -> Result<usize> {
    let size = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let limit = isize::MAX as u64;
    let too_large = Error::TooLarge { op: "tensor", operand: "shape", size: u64::MAX, limit };
    let Some(elements) = size else { return Err(too_large) };
    if !elements.is_multiple_of(dtype.block_elements()) {
        let expected = vec![elements.next_multiple_of(dtype.block_elements())];
        return Err(Error::Shape { op: "tensor", operand: "shape", expected, got: shape.to_vec() });
    }
    dtype.bytes(elements).filter(|b| *b as u64 <= limit).ok_or(too_large)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_overflow_are_errors() {
        assert_eq!(tensor_bytes(&[3, 5], DType::BF16).unwrap(), 30);
        assert_eq!(tensor_bytes(&[], DType::F32).unwrap(), 4);
        for shape in [&[usize::MAX, 2][..], &[1 << 62, 1], &[1 << 32, 1 << 32]] {
            assert!(matches!(tensor_bytes(shape, DType::F32), Err(Error::TooLarge { .. })), "{shape:?}");
        }
    }

    #[test]
    fn ids_are_unique() {
        assert_ne!(DeviceId::unique("cpu", 0), DeviceId::unique("cpu", 0));
    }
}
