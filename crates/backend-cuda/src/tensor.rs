//! Tensors in device memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use backend_api::{DType, DeviceId, DeviceTensor, KernelBackend, Mat, MatMut, Result, tensor_bytes};

use crate::CudaBackend;
use crate::device::{Clock, Device, DeviceMemory};
use crate::graph::{self, touch};
use crate::launch::{In, Out};
use crate::pool::{Block, Pool};

/// A tensor in the memory of a GPU.
#[must_use]
pub struct CudaTensor {
    pub(crate) block: Arc<Block<DeviceMemory>>,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: DType,
    pub(crate) device: DeviceId,
    pub(crate) written: Written,
}

/// When a kernel last wrote a tensor.
#[derive(Debug, Default)]
pub(crate) struct Written(AtomicU64);

impl Written {
    /// Not yet, or so long ago that it has certainly run.
    const SETTLED: u64 = 0;
    /// At a time that nobody has noted.
    const SOME_TIME: u64 = u64::MAX;

    /// A kernel that writes the tensor is about to be queued.
    fn expect(&self) {
        self.0.store(Self::SOME_TIME, SeqCst);
    }

    /// Every kernel that writes the tensor has been queued by now. Not so while this thread captures: what it issues then runs
    /// later, again and again.
    pub(crate) fn note(&self, clock: &Clock, capturing: bool) {
        if capturing {
            return;
        }
        let _ = self.0.compare_exchange(Self::SOME_TIME, clock.now(), SeqCst, SeqCst);
    }

    /// Whether every kernel that writes the tensor has certainly run.
    fn is_settled(&self, clock: &Clock, capturing: bool) -> bool {
        self.note(clock, capturing);
        let time = self.0.load(SeqCst);
        if time != Self::SETTLED && clock.is_past(time) {
            let _ = self.0.compare_exchange(time, Self::SETTLED, SeqCst, SeqCst);
        }
        time == Self::SETTLED || clock.is_past(time)
    }
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
    /// Memory of `pool` as a tensor of the backend; its contents are unspecified.
    pub(crate) fn new(
        b: &CudaBackend,
        pool: &Pool<DeviceMemory>,
        shape: &[usize],
        dtype: DType,
    ) -> Result<Self> {
        b.inner.device.alive()?;
        graph::refuse(&b.inner.device, "alloc")?;
        let block = Arc::new(pool.allocate(tensor_bytes(shape, dtype)?)?);
        Ok(Self::of(b, block, shape, dtype))
    }

    /// u32 `[1]` that is 0, and must not be written.
    pub(crate) fn zero(b: &CudaBackend) -> Self {
        Self::of(b, b.inner.counters.clone(), &[1], DType::U32)
    }

    fn of(b: &CudaBackend, block: Arc<Block<DeviceMemory>>, shape: &[usize], dtype: DType) -> Self {
        Self { block, shape: shape.to_vec(), dtype, device: b.device(), written: Written::default() }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.block.bytes() as usize
    }

    pub(crate) fn at(&self, element: usize) -> u64 {
        touch(&self.block);
        self.block.address().wrapping_add(self.dtype.bytes(element).unwrap_or(0) as u64)
    }
}

/// A window that a kernel reads, and the step between its rows.
pub(crate) fn read<'a, E>(m: &Mat<'a, CudaTensor>) -> (In<'a, E>, u64) {
    let w = m.window();
    (In::new(m.tensor().at(w.offset), w.extent()), w.stride as u64)
}

/// Whether every kernel that writes the tensor has certainly run, so that a kernel may read it before it has waited for
/// those that still run. Copies, and graphs as a whole, need no note: a kernel behind one of those starts when it has ended,
/// whatever its launch allows.
pub(crate) fn is_settled(m: &Mat<'_, CudaTensor>, device: &Device) -> bool {
    m.tensor().written.is_settled(&device.clock, graph::is_capturing(device))
}

/// Whether each row of a window begins at a multiple of 16 bytes.
pub(crate) fn aligned(m: &Mat<'_, CudaTensor>) -> bool {
    let w = m.window();
    let step = if w.rows > 1 { m.tensor().dtype.bytes(w.stride).unwrap_or(1) } else { 0 };
    m.tensor().at(w.offset) % 16 == 0 && step % 16 == 0
}

/// A window that a kernel writes, and the step between its rows.
pub(crate) fn write<'a, E>(m: &mut MatMut<'a, CudaTensor>) -> (Out<'a, E>, u64) {
    let w = m.window();
    m.tensor().written.expect();
    (Out::new(m.tensor().at(w.offset), w.extent()), w.stride as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_writes_is_settled_after_a_wait_that_began_later() {
        let (clock, written) = (Clock::default(), Written::default());
        assert!(written.is_settled(&clock, false));
        let early = clock.begin();
        written.expect();
        written.note(&clock, false);
        clock.finish(early);
        assert!(!written.is_settled(&clock, false), "that wait may have begun before the kernel was queued");
        let late = clock.begin();
        assert!(!written.is_settled(&clock, false));
        clock.finish(late);
        assert!(written.is_settled(&clock, false));
        written.expect();
        assert!(!written.is_settled(&clock, false), "nobody has noted when");
        clock.finish(clock.begin());
        assert!(written.is_settled(&clock, false));
    }

    #[test]
    fn what_a_capture_writes_is_not_settled_by_waits_during_it() {
        let (clock, written) = (Clock::default(), Written::default());
        assert!(written.is_settled(&clock, true), "nothing has written it");
        written.expect();
        written.note(&clock, true);
        clock.finish(clock.begin());
        assert!(!written.is_settled(&clock, true), "it is written when the graph runs");
        assert!(!written.is_settled(&clock, false), "the graph may be running");
        clock.finish(clock.begin());
        assert!(written.is_settled(&clock, false));
    }
}
