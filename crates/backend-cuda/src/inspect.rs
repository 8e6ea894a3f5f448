//! What measurements and tests ask of a backend.

use backend_api::ops::{NormQkvRopeAppend, NormSwiglu};
use backend_api::{Checked, KernelBackend, Result};

use crate::device::Event;
use crate::pool::PoolStats;
use crate::{CudaBackend, CudaTensor, bandwidth, fused, prefill};

impl CudaBackend {
    /// Names of the kernels that were launched so far, those of libraries left out.
    #[doc(hidden)]
    pub fn launched_kernels(&self) -> Vec<&'static str> {
        self.inner.functions.launched()
    }

    /// How many kernels are loaded, launched or not.
    #[doc(hidden)]
    pub fn loaded_kernels(&self) -> usize {
        self.inner.functions.count()
    }

    /// What the memory pool holds and did.
    pub fn pool_stats(&self) -> PoolStats {
        self.inner.pool.stats()
    }

    /// Lets [`PoolStats::high_water`] start again from what is in use now.
    pub fn reset_high_water(&self) {
        self.inner.pool.reset_high_water();
    }

    /// A mark behind everything issued so far, for [`CudaBackend::elapsed`].
    ///
    /// # Errors
    /// What the driver answers.
    #[doc(hidden)]
    pub fn record(&self) -> Result<Event> {
        Event::record(&self.inner.device)
    }

    /// Milliseconds of the device's time between two marks of this backend; waits for the later.
    ///
    /// # Errors
    /// What the driver answers.
    #[doc(hidden)]
    pub fn elapsed(&self, from: &Event, to: &Event) -> Result<f64> {
        from.until(to)
    }

    /// The last pass of the operation over many rows, alone: from `gate_up` to `out`.
    ///
    /// # Errors
    /// Those of [`KernelBackend::norm_swiglu`].
    #[doc(hidden)]
    pub fn swiglu_into(&self, op: Checked<NormSwiglu<'_, CudaTensor>>) -> Result<()> {
        let NormSwiglu { gate_up, mut out, .. } = op.on(self.device())?;
        fused::swiglu(self, &gate_up.as_mat(), &mut out)
    }

    /// The last pass of the operation over many rows, alone: from `qkv` to queries and caches.
    ///
    /// # Errors
    /// Those of [`KernelBackend::norm_qkv_rope_append`], and [`backend_api::Error::Unsupported`] where it takes more passes.
    #[doc(hidden)]
    pub fn rope_append_into(&self, op: Checked<NormQkvRopeAppend<'_, CudaTensor>>) -> Result<()> {
        prefill::rope_append(self, op.on(self.device())?)
    }

    /// Bytes read and written per second of a copy within the device's memory.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is no room for the probe.
    #[doc(hidden)]
    pub fn copy_bandwidth(&self) -> Result<f64> {
        bandwidth::copy(self)
    }
}
