//! The backend: one device, one stream, its memory and its kernels.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use backend_api::ops::*;
use backend_api::{
    Checked, Counters, DType, DeviceId, DeviceInfo, DeviceTensor, Error, Fill, KernelBackend, MemoryInfo,
    Result, tensor_bytes,
};
use cudarc::driver::sys;

use crate::device::{self, Device, DeviceMemory};
use crate::kernels::{self, archive};
use crate::launch::Launch;
use crate::pool::{Block, Pool, PoolStats};
use crate::{CudaTensor, ops};

/// Bytes that an upload stages at a time.
const STAGED: usize = 16 << 20;

/// Runs operations on an NVIDIA GPU. A clone is the same backend.
#[derive(Clone)]
pub struct CudaBackend {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    id: DeviceId,
    functions: Mutex<HashMap<(&'static str, DType, DType), Function>>,
    pool: Pool<DeviceMemory>,
    pub(crate) device: Arc<Device>,
    scratch: Mutex<Option<Arc<Block<DeviceMemory>>>>,
    launches: AtomicU64,
    allocations: AtomicU64,
    writes: AtomicU64,
    reads: AtomicU64,
}

/// A loaded kernel.
#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

#[expect(unsafe_code, reason = "a handle of the driver is a pointer")]
// SAFETY: a function's handle may be used from any thread while its context lives, which `Inner` sees to.
unsafe impl Send for Function {}

impl std::fmt::Debug for CudaBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CudaBackend").field(&self.inner.device.name).finish()
    }
}

impl CudaBackend {
    /// A backend on the first GPU.
    ///
    /// # Errors
    /// As [`CudaBackend::with_device`].
    pub fn new() -> Result<Self> {
        Self::with_device(0)
    }

    /// A backend on the GPU of this number.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without a driver or without that GPU.
    pub fn with_device(ordinal: usize) -> Result<Self> {
        Self::open(ordinal, false, None)
    }

    /// As [`CudaBackend::with_device`], with the kernels that a card of no more than this compute capability would run.
    ///
    /// # Errors
    /// As [`CudaBackend::with_device`].
    pub fn with_capability(ordinal: usize, most: (u32, u32)) -> Result<Self> {
        Self::open(ordinal, false, Some(most))
    }

    /// As [`CudaBackend::with_device`]; memory is filled with `0xFF` before it is handed out, so that what is read but was
    /// not written shows as NaN.
    ///
    /// # Errors
    /// As [`CudaBackend::with_device`].
    pub fn poisoned(ordinal: usize) -> Result<Self> {
        Self::open(ordinal, true, None)
    }

    /// Whether a driver and a GPU are there; creates no context.
    pub fn is_available() -> bool {
        device::count().is_ok_and(|n| n > 0)
    }

    fn open(ordinal: usize, poison: bool, most: Option<(u32, u32)>) -> Result<Self> {
        let mut device = Device::open(ordinal)?;
        device.capability = device.capability.min(most.unwrap_or(device.capability));
        let device = Arc::new(device);
        let inner = Inner {
            id: DeviceId::unique("cuda", ordinal),
            functions: Mutex::default(),
            pool: Pool::new(DeviceMemory(device.clone()), poison),
            device,
            scratch: Mutex::default(),
            launches: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where and how to launch a kernel for these element types.
    pub(crate) fn launch(
        &self,
        kernel: &'static str,
        scalar: DType,
        weight: DType,
        grid: u32,
    ) -> Result<Launch> {
        let inner = &self.inner;
        inner.device.bind()?;
        let mut functions = inner.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kernel, scalar, weight);
        let function = match functions.get(&key) {
            Some(function) => *function,
            None => {
                let ptx = archive::ptx(kernel, scalar, weight, inner.device.capability)?;
                let function = Function(inner.device.load(kernel, &ptx, kernels::shared(kernel))?);
                functions.insert(key, function);
                function
            }
        };
        inner.launches.fetch_add(1, Relaxed);
        Ok(Launch { function: function.0, stream: inner.device.stream, grid, cluster: 1 })
    }

    /// Memory for the intermediate values of one launch, kept for the next: the stream runs one after the other.
    pub(crate) fn scratch(&self, bytes: usize) -> Result<Arc<Block<DeviceMemory>>> {
        let mut scratch = self.inner.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        match &*scratch {
            Some(block) if block.bytes() as usize >= bytes => Ok(block.clone()),
            _ => Ok(scratch.insert(Arc::new(self.inner.pool.allocate(bytes)?)).clone()),
        }
    }

    /// What the memory pool holds and did.
    pub fn pool_stats(&self) -> PoolStats {
        self.inner.pool.stats()
    }

    /// Gives memory that no tensor uses back to the driver; returns how many bytes.
    pub fn trim(&self) -> u64 {
        self.inner.pool.trim()
    }

    fn owns(&self, op: &'static str, tensor: &CudaTensor) -> Result<()> {
        if tensor.device() == self.inner.id {
            return Ok(());
        }
        Err(Error::Device { op, operand: "tensor", expected: self.inner.id, got: tensor.device() })
    }
}

fn span(tensor: &CudaTensor, offset: usize, len: usize) -> Result<u64> {
    let inside = offset.checked_add(len).is_some_and(|end| end <= tensor.bytes());
    if inside {
        return Ok(tensor.block.address() + offset as u64);
    }
    Err(Error::Shape {
        op: "transfer",
        operand: "bytes",
        expected: vec![tensor.bytes()],
        got: vec![offset, len],
    })
}

impl KernelBackend for CudaBackend {
    type Tensor = CudaTensor;
    type Graph = ();

    fn name(&self) -> &str {
        "cuda"
    }
    fn device(&self) -> DeviceId {
        self.inner.id
    }
    fn info(&self) -> DeviceInfo {
        let d = &self.inner.device;
        let features = vec![format!("compute capability {}.{}", d.capability.0, d.capability.1)];
        DeviceInfo { id: self.inner.id, name: d.name.clone(), features, total_memory: Some(d.total_memory) }
    }
    fn counters(&self) -> Counters {
        let i = &self.inner;
        Counters {
            launches: i.launches.load(Relaxed),
            allocations: i.allocations.load(Relaxed),
            writes: i.writes.load(Relaxed),
            reads: i.reads.load(Relaxed),
            captures: 0,
            replays: 0,
        }
    }
    fn memory(&self) -> MemoryInfo {
        let stats = self.inner.pool.stats();
        MemoryInfo { in_use: stats.in_use, high_water: stats.high_water, free: self.inner.device.free().ok() }
    }
    fn synchronize(&self) -> Result<()> {
        self.inner.device.synchronize()
    }
    fn read_bandwidth(&self) -> Result<f64> {
        ops::read_bandwidth(self)
    }
    fn alloc(&self, shape: &[usize], dtype: DType) -> Result<CudaTensor> {
        let block = Arc::new(self.inner.pool.allocate(tensor_bytes(shape, dtype)?)?);
        self.inner.allocations.fetch_add(1, Relaxed);
        Ok(CudaTensor { block, shape: shape.to_vec(), dtype, device: self.inner.id })
    }
    fn upload(&self, shape: &[usize], dtype: DType, fill: Fill<'_>) -> Result<CudaTensor> {
        let tensor = self.alloc(shape, dtype)?;
        self.inner.writes.fetch_add(1, Relaxed);
        let mut staging = vec![0; STAGED.min(tensor.bytes())];
        for offset in (0..tensor.bytes()).step_by(STAGED) {
            let part = &mut staging[..STAGED.min(tensor.bytes() - offset)];
            fill(offset, part)?;
            self.inner.device.write(tensor.block.address() + offset as u64, part)?;
        }
        Ok(tensor)
    }
    fn write(&self, dst: &mut CudaTensor, offset: usize, src: &[u8]) -> Result<()> {
        self.owns("write", dst)?;
        let address = span(dst, offset, src.len())?;
        self.inner.writes.fetch_add(1, Relaxed);
        self.inner.device.write(address, src)
    }
    fn read(&self, src: &CudaTensor, offset: usize, out: &mut [u8]) -> Result<()> {
        self.owns("read", src)?;
        let address = span(src, offset, out.len())?;
        self.inner.reads.fetch_add(1, Relaxed);
        self.inner.device.read(address, out)
    }
    fn fill_random(&self, dst: &mut CudaTensor, seed: u64, scale: f32) -> Result<()> {
        self.owns("fill_random", dst)?;
        ops::fill_random(self, dst, seed, scale)
    }
    fn step(
        &self,
        (): &mut (),
        first: usize,
        body: &mut (dyn FnMut(&Self, Option<usize>) -> Result<()> + Send),
    ) -> Result<()> {
        body(self, Some(first))
    }
    fn matmul_into(&self, op: Checked<Matmul<'_, CudaTensor>>) -> Result<()> {
        ops::matmul(self, op.on(self.inner.id)?)
    }
    fn rmsnorm_into(&self, op: Checked<RmsNorm<'_, CudaTensor>>) -> Result<()> {
        ops::rmsnorm(self, op.on(self.inner.id)?)
    }
    fn softmax_into(&self, op: Checked<Softmax<'_, CudaTensor>>) -> Result<()> {
        ops::softmax(self, op.on(self.inner.id)?)
    }
    fn silu_into(&self, op: Checked<Silu<'_, CudaTensor>>) -> Result<()> {
        ops::silu(self, op.on(self.inner.id)?)
    }
    fn apply_rope_into(&self, op: Checked<ApplyRope<'_, CudaTensor>>) -> Result<()> {
        ops::apply_rope(self, op.on(self.inner.id)?)
    }
    fn compute_attention_scores_into(
        &self,
        op: Checked<ComputeAttentionScores<'_, CudaTensor>>,
    ) -> Result<()> {
        ops::compute_attention_scores(self, op.on(self.inner.id)?)
    }
    fn weighted_sum_rows_into(&self, op: Checked<WeightedSumRows<'_, CudaTensor>>) -> Result<()> {
        ops::weighted_sum_rows(self, op.on(self.inner.id)?)
    }
    fn add_into(&self, op: Checked<Add<'_, CudaTensor>>) -> Result<()> {
        ops::add(self, op.on(self.inner.id)?)
    }
    fn mul_into(&self, op: Checked<Mul<'_, CudaTensor>>) -> Result<()> {
        ops::mul(self, op.on(self.inner.id)?)
    }
    fn embed_into(&self, op: Checked<Embed<'_, CudaTensor>>) -> Result<()> {
        ops::embed(self, op.on(self.inner.id)?)
    }
    fn append_rows_into(&self, op: Checked<AppendRows<'_, CudaTensor>>) -> Result<()> {
        ops::append_rows(self, op.on(self.inner.id)?)
    }
    fn argmax_into(&self, op: Checked<Argmax<'_, CudaTensor>>) -> Result<()> {
        ops::argmax(self, op.on(self.inner.id)?)
    }
    fn sample_into(&self, op: Checked<Sample<'_, CudaTensor>>) -> Result<()> {
        ops::sample(self, op.on(self.inner.id)?)
    }
    fn attention(&self, op: Checked<Attention<'_, CudaTensor>>) -> Result<()> {
        ops::attention(self, op.on(self.inner.id)?)
    }
}
