//! The backend: one device, one stream, its memory and its kernels.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use backend_api::ops::*;
use backend_api::{
    Checked, Counters, DType, DeviceId, DeviceInfo, DeviceTensor, Error, Fill, KernelBackend, MemoryInfo,
    Pending, Result, SlowPath, Workload,
};

use crate::blas::{self, Blas};
use crate::builder::CudaBackendBuilder;
use crate::device::{self, Device, DeviceMemory, PIECE, Reading};
use crate::functions::{self, Functions};
use crate::graph::{self, CudaGraph, Run};
use crate::kernels::archive::Target;
use crate::launch::{Launch, Out};
use crate::pool::{Block, Pool, size_class};
use crate::{CudaTensor, bandwidth, forecast, fused, heads, ops, products};

/// Outputs that blocks may share in one launch.
pub(crate) const COUNTERS: usize = 1 << 14;

/// Memory that an operation works in, until the next one does; at no address where it needs none.
pub(crate) struct Scratch(Option<Arc<Block<DeviceMemory>>>);

impl Scratch {
    pub(crate) fn address(&self) -> u64 {
        self.0.as_ref().map_or(0, |block| block.address())
    }
}

/// Runs operations on an NVIDIA GPU. A clone is the same backend.
#[derive(Clone)]
pub struct CudaBackend {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    id: DeviceId,
    options: CudaBackendBuilder,
    pub(crate) functions: Functions,
    pub(crate) pool: Pool<DeviceMemory>,
    pub(crate) device: Arc<Device>,
    /// The last is the largest.
    scratch: Mutex<Vec<Arc<Block<DeviceMemory>>>>,
    /// 0 between launches.
    pub(crate) counters: Arc<Block<DeviceMemory>>,
    pub(crate) blas: Blas,
    launches: AtomicU64,
    allocations: AtomicU64,
    writes: AtomicU64,
    reads: AtomicU64,
    captures: AtomicU64,
    replays: AtomicU64,
}

impl std::fmt::Debug for CudaBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Inner { device, options, .. } = &*self.inner;
        f.debug_tuple("CudaBackend").field(device).field(options).finish()
    }
}

impl CudaBackend {
    /// A backend on the first GPU.
    ///
    /// # Errors
    /// As [`CudaBackendBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// A backend on the GPU of this number.
    ///
    /// # Errors
    /// As [`CudaBackendBuilder::build`].
    pub fn with_device(ordinal: usize) -> Result<Self> {
        Self::builder().device(ordinal).build()
    }

    /// Settings for a backend other than the usual.
    pub fn builder() -> CudaBackendBuilder {
        CudaBackendBuilder::default()
    }

    /// Whether a driver and a GPU are there; creates no context.
    pub fn is_available() -> bool {
        device::count().is_ok_and(|n| n > 0)
    }

    /// How many GPUs the driver shows; creates no context.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without a driver that answers.
    pub fn count() -> Result<usize> {
        device::count()
    }

    pub(crate) fn from_builder(options: CudaBackendBuilder) -> Result<Self> {
        let source = options.source()?;
        let device = Device::open(options.device, options.kernel_target)?;
        let pool = Pool::new(DeviceMemory(device.clone()), options.poison);
        let counters = Arc::new(pool.allocate(COUNTERS * size_of::<u32>())?);
        device.clear(counters.address(), counters.bytes() as usize)?;
        let inner = Inner {
            id: DeviceId::unique("cuda", options.device),
            functions: Functions::new(source),
            pool,
            counters,
            device,
            blas: Blas::new(options.blas),
            options,
            scratch: Mutex::default(),
            launches: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            captures: AtomicU64::new(0),
            replays: AtomicU64::new(0),
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
    ) -> Result<Launch<'_>> {
        let inner = &self.inner;
        let device = &*inner.device;
        device.bind()?;
        let function = inner.functions.get(device, (kernel, scalar, weight))?;
        self.count_launch();
        Ok(Launch {
            device,
            function: function.handle,
            stream: graph::stream(device),
            grid,
            cluster: 1,
            shared: None,
            awaits: function.awaits,
            overlaps: false,
            together: false,
        })
    }

    pub(crate) fn count_launch(&self) {
        self.inner.launches.fetch_add(1, Relaxed);
    }

    /// Memory for the intermediate values of one launch, kept for the next: the stream runs one after the other. What was
    /// given once stays, since a captured step may use it.
    pub(crate) fn scratch(&self, bytes: usize) -> Result<Scratch> {
        if bytes == 0 {
            return Ok(Scratch(None));
        }
        let mut scratch = self.inner.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        match scratch.last() {
            Some(block) if block.bytes() as usize >= bytes => Ok(Scratch(Some(block.clone()))),
            _ => {
                let block = Arc::new(self.inner.pool.allocate(bytes.next_power_of_two())?);
                self.inner.allocations.fetch_add(1, Relaxed);
                scratch.push(block.clone());
                Ok(Scratch(Some(block)))
            }
        }
    }

    /// [`COUNTERS`] numbers: blocks that share an output count themselves.
    pub(crate) fn arrivals(&self) -> Out<'_, u32> {
        Out::new(self.inner.counters.address(), COUNTERS)
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
    type Graph = CudaGraph;

    fn name(&self) -> &str {
        "cuda"
    }
    fn device(&self) -> DeviceId {
        self.inner.id
    }
    fn info(&self) -> DeviceInfo {
        let d = &self.inner.device;
        let Target { capability, card } = d.target;
        let mut features = vec![format!("compute capability {}.{}", card.0, card.1)];
        if capability != card {
            features.push(format!("kernels for {}.{}", capability.0, capability.1));
        }
        DeviceInfo { id: self.inner.id, name: d.name.clone(), features, total_memory: Some(d.total_memory) }
    }
    /// That of the weights; f32 only keeps what the contract says is always f32.
    fn activation_dtype(&self, weights: DType) -> DType {
        if weights.is_float() { weights } else { DType::F32 }
    }
    /// Enough rows for attention to give every multiprocessor several tiles, and for products to come close to their peak.
    fn prefill_chunk(&self) -> usize {
        2048
    }
    /// Loads the kernels for these types and heads on several threads, and gets cuBLAS ready beside them. Other kernels are
    /// loaded when they first run.
    fn prepare(&self, workload: &Workload) -> Result<()> {
        let Inner { device, functions, .. } = &*self.inner;
        let keys = functions::of_model(workload, device.target);
        thread::scope(|scope| {
            // Where there is no thread for it, or no library, its absence shows when it is called.
            let start =
                || thread::Builder::new().spawn_scoped(scope, || blas::start(self, workload.weights)).ok();
            let library = forecast::calls_library(device.shared_memory, workload).then(start).flatten();
            let loaded = functions.preload(device, &keys);
            let _ = library.map(|library| library.join().unwrap_or_else(|panic| resume_unwind(panic)));
            loaded
        })
    }
    fn counters(&self) -> Counters {
        let i = &self.inner;
        Counters {
            launches: i.launches.load(Relaxed),
            allocations: i.allocations.load(Relaxed),
            writes: i.writes.load(Relaxed),
            reads: i.reads.load(Relaxed),
            captures: i.captures.load(Relaxed),
            replays: i.replays.load(Relaxed),
        }
    }
    fn memory(&self) -> MemoryInfo {
        let stats = self.inner.pool.stats();
        MemoryInfo { in_use: stats.in_use, high_water: stats.high_water, free: self.inner.device.free().ok() }
    }
    fn taken(&self, bytes: u64) -> u64 {
        if bytes == 0 { 0 } else { size_class(bytes).unwrap_or(u64::MAX) }
    }
    fn overhead(&self, workload: &Workload) -> u64 {
        let card = forecast::Card::of(self, workload);
        forecast::held(&card, workload).fold(0, |sum, bytes| sum.saturating_add(self.taken(bytes)))
    }
    fn slow_paths(&self, workload: &Workload) -> Vec<SlowPath> {
        forecast::slow_paths(&forecast::Card::of(self, workload), workload)
    }
    fn product_library(&self) -> Result<Option<String>> {
        self.cublas().map(Some)
    }
    fn synchronize(&self) -> Result<()> {
        graph::refuse(&self.inner.device, "synchronize")?;
        self.inner.device.synchronize()
    }
    fn read_bandwidth(&self) -> Result<f64> {
        bandwidth::read(self)
    }
    fn alloc(&self, shape: &[usize], dtype: DType) -> Result<CudaTensor> {
        let tensor = CudaTensor::new(self, &self.inner.pool, shape, dtype)?;
        self.inner.allocations.fetch_add(1, Relaxed);
        Ok(tensor)
    }
    fn upload(&self, shape: &[usize], dtype: DType, fill: Fill<'_>) -> Result<CudaTensor> {
        let tensor = self.alloc(shape, dtype)?;
        self.inner.writes.fetch_add(1, Relaxed);
        self.inner.device.upload(tensor.block.address(), tensor.bytes(), fill)?;
        Ok(tensor)
    }
    fn write(&self, dst: &mut CudaTensor, offset: usize, src: &[u8]) -> Result<()> {
        self.owns("write", dst)?;
        graph::refuse(&self.inner.device, "write")?;
        let address = span(dst, offset, src.len())?;
        self.inner.writes.fetch_add(1, Relaxed);
        self.inner.device.write(address, src)
    }
    fn read(&self, src: &CudaTensor, offset: usize, out: &mut [u8]) -> Result<()> {
        self.owns("read", src)?;
        graph::refuse(&self.inner.device, "read")?;
        let address = span(src, offset, out.len())?;
        self.inner.reads.fetch_add(1, Relaxed);
        self.inner.device.read(address, out)
    }
    fn read_later(&self, src: &CudaTensor, offset: usize, len: usize) -> Result<Pending> {
        if len > PIECE {
            let mut bytes = vec![0; len];
            self.read(src, offset, &mut bytes)?;
            return Ok(Pending::Ready(bytes));
        }
        self.owns("read", src)?;
        graph::refuse(&self.inner.device, "read")?;
        let address = span(src, offset, len)?;
        self.inner.reads.fetch_add(1, Relaxed);
        let reading = Reading::queue(&self.inner.device, address, len)?;
        Ok(Pending::Later(Box::new(move || reading.finish())))
    }
    fn fill_random(&self, dst: &mut CudaTensor, seed: u64, scale: f32) -> Result<()> {
        self.owns("fill_random", dst)?;
        ops::fill_random(self, dst, seed, scale)
    }
    /// So few rows that the kernels of a layer end about as fast as the host issues them, and that a row more or less is nothing
    /// beside reading the weights: where tensor cores make products of two rows and more.
    fn chunk_rows(&self, rows: usize) -> Option<usize> {
        const BUCKETS: [usize; 7] = [1, 16, 32, 48, 64, 96, 128];
        let fast = self.inner.device.target.capability >= (8, 0);
        BUCKETS.into_iter().find(|bucket| fast && (1..=*bucket).contains(&rows))
    }
    fn step(
        &self,
        graph: &mut CudaGraph,
        first: usize,
        body: &mut (dyn FnMut(&Self, Option<usize>) -> Result<()> + Send),
    ) -> Result<()> {
        let run =
            graph.run(&self.inner.device, &mut |knows_first| body(self, knows_first.then_some(first)))?;
        match run {
            Run::Eager => 0,
            Run::Captured => self.inner.captures.fetch_add(1, Relaxed),
            Run::Replayed => self.inner.replays.fetch_add(1, Relaxed),
        };
        Ok(())
    }
    fn matmul_into(&self, op: Checked<Matmul<'_, CudaTensor>>) -> Result<()> {
        products::matmul(self, op.on(self.inner.id)?)
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
        heads::compute_attention_scores(self, op.on(self.inner.id)?)
    }
    fn weighted_sum_rows_into(&self, op: Checked<WeightedSumRows<'_, CudaTensor>>) -> Result<()> {
        heads::weighted_sum_rows(self, op.on(self.inner.id)?)
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
    fn norm_qkv_rope_append(&self, op: Checked<NormQkvRopeAppend<'_, CudaTensor>>) -> Result<()> {
        fused::norm_qkv_rope_append(self, op.on(self.inner.id)?)
    }
    fn norm_swiglu(&self, op: Checked<NormSwiglu<'_, CudaTensor>>) -> Result<()> {
        fused::norm_swiglu(self, op.on(self.inner.id)?)
    }
    fn attention(&self, op: Checked<Attention<'_, CudaTensor>>) -> Result<()> {
        heads::attention(self, op.on(self.inner.id)?)
    }
}
