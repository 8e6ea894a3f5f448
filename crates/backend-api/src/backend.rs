//! The trait that every backend implements.

use ndarray::{Array1, Array2, Ix1, Ix2};

use crate::ops::{
    self, Add, AppendRows, ApplyRope, Argmax, Attention, ComputeAttentionScores, Embed, Matmul, Mul,
    NormQkvRopeAppend, NormSwiglu, RmsNorm, Sample, SampleParams, Silu, Softmax, WeightedSumRows,
};
use crate::{
    Checked, Counters, DType, DeviceId, DeviceInfo, DeviceTensor, Error, HostTensor, MemoryInfo, Result,
    SlowPath, Workload, tensor_bytes,
};

/// Produces a tensor's bytes: `fill(offset, out)` writes those from byte `offset` on, `out.len()` of them. It may be
/// called from several threads, for parts in any order.
pub type Fill<'f> = &'f (dyn Fn(usize, &mut [u8]) -> Result<()> + Sync);

/// A copy from the device.
pub enum Pending {
    /// It is there: the device works while the host waits.
    Ready(Vec<u8>),
    /// It will be, once this has waited for it: the host may go on issuing operations meanwhile.
    Later(Box<dyn FnOnce() -> Result<Vec<u8>> + Send>),
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ready(bytes) => f.debug_tuple("Ready").field(bytes).finish(),
            Self::Later(_) => f.debug_tuple("Later").finish_non_exhaustive(),
        }
    }
}

impl Pending {
    /// The bytes, waited for.
    ///
    /// # Errors
    /// What the device reports.
    pub fn wait(self) -> Result<Vec<u8>> {
        match self {
            Self::Ready(bytes) => Ok(bytes),
            Self::Later(wait) => wait(),
        }
    }
}

/// Device memory and the operations on it.
///
/// Operations are issued in order and see the results of those before them; they may finish later, and
/// [`read`](Self::read) and [`synchronize`](Self::synchronize) wait. Products and sums accumulate in f32 or better, and the
/// same inputs give the same bits. A backend must take every operation with all float operands of one type, for each of
/// [`DType::FLOATS`]; where it does not take a mixture it says [`Error::DType`]. Which mixtures it must take follows from
/// [`activation_dtype`](Self::activation_dtype).
///
/// A row vector is a matrix of one row. Each operation has a form that writes into memory it is given (`…_into`), and
/// under its bare name one that allocates the result, in the type of the first float operand. An operation fails with
/// [`Error::Device`] for another backend's tensors, with [`Error::DType`] for a mixture that the backend does not take, and with
/// what its device reports; a returning form also with the errors of [`Op::check`](crate::Op::check) and of
/// [`alloc`](Self::alloc), a copy to or from the host with those of [`upload`](Self::upload) and [`read`](Self::read).
pub trait KernelBackend: Send + Sync + Sized {
    /// Owned device memory.
    type Tensor: DeviceTensor;
    /// A captured step; `()` for a backend without graphs. It keeps alive all memory that the step touches.
    type Graph: Default + Send;

    /// `cpu`, `cuda`, …
    fn name(&self) -> &str;

    /// The id that this backend's tensors carry.
    fn device(&self) -> DeviceId;

    /// What reports show.
    fn info(&self) -> DeviceInfo;

    /// The type in which activations are best kept when weights are stored as `weights`.
    ///
    /// A decoder keeps the residual stream and the logits in f32 whatever is answered, and what lies between in the answer.
    /// A backend that answers `T` for `W` must therefore take, with weights, norms, embeddings and caches in `W`:
    ///
    /// - [`Embed`] `W → f32`; [`RmsNorm`] `f32 → T`; [`Matmul`] `T × W → f32`, accumulating or not;
    /// - [`NormQkvRopeAppend`] with `x` f32, `qkv` and `scratch` `T`;
    /// - [`Attention`] with `q` and `out` `T`;
    /// - [`NormSwiglu`] with `x` f32, `out`, `scratch` and `gate_up` `T`.
    ///
    /// Where the cache is of another type than `W`, `qkv`, `q` and `out` of the attention are f32, and so is `x` of the product
    /// after it; `scratch` stays `T`.
    ///
    /// The fused ones include what they are composed of where the backend does not override them.
    fn activation_dtype(&self, _weights: DType) -> DType {
        DType::F32
    }

    /// Prompt tokens that a decoder processes together unless it is told otherwise: enough for the device to be busy, few
    /// enough for activations of so many rows to be small beside the weights.
    fn prefill_chunk(&self) -> usize {
        512
    }

    /// Gets ready for such a decoder: loads what its operations would otherwise load one by one. The decoder calls it while
    /// weights are being read.
    ///
    /// # Errors
    /// What the device reports.
    fn prepare(&self, _workload: &Workload) -> Result<()> {
        Ok(())
    }

    /// What was done so far.
    fn counters(&self) -> Counters;

    /// Memory of the device.
    fn memory(&self) -> MemoryInfo;

    /// Bytes of device memory that a tensor of `bytes` bytes takes, what the allocator adds included.
    fn taken(&self, bytes: u64) -> u64 {
        bytes
    }

    /// Bytes of device memory that the backend itself holds, beside tensors, while such a decoder runs: what libraries ask
    /// for, and what kernels share.
    fn overhead(&self, _workload: &Workload) -> u64 {
        0
    }

    /// The operations of such a decoder that do not take the fastest kernels, and why.
    fn slow_paths(&self, _workload: &Workload) -> Vec<SlowPath> {
        Vec::new()
    }

    /// Name and version of the library that makes products where it is found; `None` for a backend that has no use for one.
    /// Opens it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where it is missing, with what was searched and what helps; every operation works without.
    fn product_library(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Waits until everything issued has finished.
    ///
    /// # Errors
    /// What failed since the last wait.
    fn synchronize(&self) -> Result<()>;

    /// Measures how fast the device reads its memory, in bytes per second; takes less than a second.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is no room for the probe.
    fn read_bandwidth(&self) -> Result<f64>;

    /// Memory of unspecified contents.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::TooLarge`]; [`Error::Captured`] inside a captured step.
    fn alloc(&self, shape: &[usize], dtype: DType) -> Result<Self::Tensor>;

    /// Memory filled through the backend's own bounded staging.
    ///
    /// # Errors
    /// Those of [`alloc`](Self::alloc) and of `fill`.
    fn upload(&self, shape: &[usize], dtype: DType, fill: Fill<'_>) -> Result<Self::Tensor>;

    /// Overwrites a tensor's bytes from `offset` on.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not lie inside.
    fn write(&self, dst: &mut Self::Tensor, offset: usize, src: &[u8]) -> Result<()>;

    /// Copies a tensor's bytes from `offset` on, after all operations issued so far.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not lie inside.
    fn read(&self, src: &Self::Tensor, offset: usize, out: &mut [u8]) -> Result<()>;

    /// Queues a copy of a few of a tensor's bytes behind all operations issued so far; what is issued after it does not
    /// delay it.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not lie inside.
    fn read_later(&self, src: &Self::Tensor, offset: usize, len: usize) -> Result<Pending> {
        let mut bytes = vec![0; len];
        self.read(src, offset, &mut bytes)?;
        Ok(Pending::Ready(bytes))
    }

    /// Sets element `i` of a float tensor to [`uniform(seed, i, scale)`](crate::random::uniform).
    ///
    /// # Errors
    /// [`Error::DType`] for a tensor of integers.
    fn fill_random(&self, dst: &mut Self::Tensor, seed: u64, scale: f32) -> Result<()>;

    /// Runs one decoding step: `body(self, Some(first))`, or with graphs `body(self, None)` once to capture it, and then
    /// what was captured. `first` is the position of the step's first row. `body` only issues operations; what it needs of
    /// the host is captured as it stands.
    ///
    /// # Errors
    /// Those of `body`; the graph is then empty again.
    fn step(
        &self,
        graph: &mut Self::Graph,
        first: usize,
        body: &mut (dyn FnMut(&Self, Option<usize>) -> Result<()> + Send),
    ) -> Result<()>;

    /// To how many rows a chunk of `rows` prompt tokens is padded so that chunks of about its length can share a captured
    /// step; `None` where such a chunk is best issued as it is. Padding takes the positions that follow, which nothing sees
    /// before they are written again.
    fn chunk_rows(&self, _rows: usize) -> Option<usize> {
        None
    }

    /// See [`Matmul`].
    fn matmul_into(&self, op: Checked<Matmul<'_, Self::Tensor>>) -> Result<()>;
    /// See [`RmsNorm`].
    fn rmsnorm_into(&self, op: Checked<RmsNorm<'_, Self::Tensor>>) -> Result<()>;
    /// See [`Softmax`].
    fn softmax_into(&self, op: Checked<Softmax<'_, Self::Tensor>>) -> Result<()>;
    /// See [`Silu`].
    fn silu_into(&self, op: Checked<Silu<'_, Self::Tensor>>) -> Result<()>;
    /// See [`ApplyRope`].
    fn apply_rope_into(&self, op: Checked<ApplyRope<'_, Self::Tensor>>) -> Result<()>;
    /// See [`ComputeAttentionScores`].
    fn compute_attention_scores_into(
        &self,
        op: Checked<ComputeAttentionScores<'_, Self::Tensor>>,
    ) -> Result<()>;
    /// See [`WeightedSumRows`].
    fn weighted_sum_rows_into(&self, op: Checked<WeightedSumRows<'_, Self::Tensor>>) -> Result<()>;
    /// See [`Add`].
    fn add_into(&self, op: Checked<Add<'_, Self::Tensor>>) -> Result<()>;
    /// See [`Mul`].
    fn mul_into(&self, op: Checked<Mul<'_, Self::Tensor>>) -> Result<()>;
    /// See [`Embed`].
    fn embed_into(&self, op: Checked<Embed<'_, Self::Tensor>>) -> Result<()>;
    /// See [`AppendRows`].
    fn append_rows_into(&self, op: Checked<AppendRows<'_, Self::Tensor>>) -> Result<()>;
    /// See [`Argmax`].
    fn argmax_into(&self, op: Checked<Argmax<'_, Self::Tensor>>) -> Result<()>;
    /// See [`Sample`].
    fn sample_into(&self, op: Checked<Sample<'_, Self::Tensor>>) -> Result<()>;

    /// See [`NormQkvRopeAppend`]; composed of the operations above unless the backend has a faster way.
    fn norm_qkv_rope_append(&self, op: Checked<NormQkvRopeAppend<'_, Self::Tensor>>) -> Result<()> {
        ops::norm_qkv_rope_append::compose(self, op.on(self.device())?)
    }
    /// See [`Attention`]; composed of the operations above unless the backend has a faster way.
    fn attention(&self, op: Checked<Attention<'_, Self::Tensor>>) -> Result<()> {
        ops::attention::compose(self, op.on(self.device())?)
    }
    /// See [`NormSwiglu`]; composed of the operations above unless the backend has a faster way.
    fn norm_swiglu(&self, op: Checked<NormSwiglu<'_, Self::Tensor>>) -> Result<()> {
        ops::norm_swiglu::compose(self, op.on(self.device())?)
    }

    /// `weights [n, k]` times the vector `input [k]`: `[n]`.
    fn matmul_vec(&self, weights: &Self::Tensor, input: &Self::Tensor) -> Result<Self::Tensor> {
        ops::matmul_vec(self, weights, input)
    }
    /// `x [m, k]` times `w [n, k]` transposed: `[m, n]`.
    fn matmul(&self, x: &Self::Tensor, w: &Self::Tensor) -> Result<Self::Tensor> {
        ops::matmul(self, x, w)
    }
    /// [`RmsNorm`] of every row.
    fn rmsnorm(&self, x: &Self::Tensor, weight: &Self::Tensor, eps: f32) -> Result<Self::Tensor> {
        ops::rmsnorm(self, x, weight, eps)
    }
    /// [`Softmax`] of every row.
    fn softmax(&self, x: &Self::Tensor) -> Result<Self::Tensor> {
        ops::softmax(self, x)
    }
    /// [`Silu`] of every element.
    fn silu(&self, x: &Self::Tensor) -> Result<Self::Tensor> {
        ops::silu(self, x)
    }
    /// [`ApplyRope`] with `cos` and `sin`, both f32 `[positions, head_dim / 2]`, and u32 positions `[rows]`.
    fn apply_rope(
        &self,
        x: &Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
        positions: &Self::Tensor,
        head_dim: usize,
    ) -> Result<Self::Tensor> {
        ops::apply_rope(self, x, (cos, sin), positions, head_dim)
    }
    /// [`ComputeAttentionScores`] of one head: `q [rows, head_dim]`, `k [keys, head_dim]`, `[rows, keys]`.
    fn compute_attention_scores(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        scale: f32,
    ) -> Result<Self::Tensor> {
        ops::compute_attention_scores(self, q, k, scale)
    }
    /// [`WeightedSumRows`] of one head: `weights [m, n]`, `rows [n, cols]`, `[m, cols]`.
    fn weighted_sum_rows(&self, weights: &Self::Tensor, rows: &Self::Tensor) -> Result<Self::Tensor> {
        ops::weighted_sum_rows(self, weights, rows)
    }
    /// Elementwise sum.
    fn add(&self, x: &Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor> {
        ops::add(self, x, y)
    }
    /// Elementwise product.
    fn mul(&self, x: &Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor> {
        ops::mul(self, x, y)
    }
    /// Rows of `table [vocab, cols]` for u32 `ids [n]`: `[n, cols]`.
    fn embed(&self, table: &Self::Tensor, ids: &Self::Tensor) -> Result<Self::Tensor> {
        ops::embed(self, table, ids)
    }
    /// Writes the rows of `src` into `dst` at u32 `positions [rows]`.
    fn append_rows(
        &self,
        src: &Self::Tensor,
        dst: &mut Self::Tensor,
        positions: &Self::Tensor,
    ) -> Result<()> {
        ops::append_rows(self, src, dst, positions)
    }
    /// The id of the largest logit of every row, u32 `[rows]`.
    fn argmax(&self, logits: &Self::Tensor) -> Result<Self::Tensor> {
        ops::argmax(self, logits)
    }
    /// [`Sample`] from `logits [vocab]`; u32 `[1]`.
    fn sample(
        &self,
        logits: &Self::Tensor,
        history: &mut Self::Tensor,
        position: &mut Self::Tensor,
        params: SampleParams,
    ) -> Result<Self::Tensor> {
        ops::sample(self, logits, history, position, params)
    }

    /// Uploads a host tensor.
    fn to_device(&self, host: &HostTensor) -> Result<Self::Tensor> {
        let bytes = host.bytes();
        self.upload(host.shape(), host.dtype(), &|offset, out| {
            out.copy_from_slice(&bytes[offset..offset + out.len()]);
            Ok(())
        })
    }
    /// Uploads a vector as f32.
    fn to_device_1d(&self, host: &Array1<f32>) -> Result<Self::Tensor> {
        self.to_device(&HostTensor::new(host.view()))
    }
    /// Uploads a matrix as f32.
    fn to_device_2d(&self, host: &Array2<f32>) -> Result<Self::Tensor> {
        self.to_device(&HostTensor::new(host.view()))
    }
    /// Downloads a tensor's bytes.
    fn download(&self, src: &Self::Tensor) -> Result<Vec<u8>> {
        let mut bytes = vec![0; tensor_bytes(src.shape(), src.dtype())?];
        self.read(src, 0, &mut bytes)?;
        Ok(bytes)
    }
    /// Downloads a tensor.
    fn to_host(&self, src: &Self::Tensor) -> Result<HostTensor> {
        HostTensor::from_bytes(src.shape(), src.dtype(), &self.download(src)?)
    }
    /// Downloads a vector as f32.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tensor is not a vector.
    fn to_host_1d(&self, src: &Self::Tensor) -> Result<Array1<f32>> {
        self.to_host(src)?.to_f32().into_dimensionality::<Ix1>().map_err(|_| rank("to_host_1d", src, 1))
    }
    /// Downloads a matrix as f32.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tensor is not a matrix.
    fn to_host_2d(&self, src: &Self::Tensor) -> Result<Array2<f32>> {
        self.to_host(src)?.to_f32().into_dimensionality::<Ix2>().map_err(|_| rank("to_host_2d", src, 2))
    }
}

fn rank(op: &'static str, src: &impl DeviceTensor, rank: usize) -> Error {
    let mut expected = vec![1; rank];
    expected[0] = src.shape().iter().product();
    Error::Shape { op, operand: "tensor", expected, got: src.shape().to_vec() }
}
