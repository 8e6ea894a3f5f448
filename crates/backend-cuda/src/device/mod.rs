//! A GPU: its context, its one stream, and the calls of the driver on them.

mod clock;
pub(crate) mod driver;
mod event;
mod failure;
mod memory;
mod module;
mod probe;
mod staging;
#[cfg(test)]
mod tests;

use std::ffi::CStr;
use std::sync::{Arc, OnceLock};

use backend_api::{Error, Result};
use cudarc::driver::sys::{self, CUdevice_attribute, CUdevice_attribute as At};

pub(crate) use self::clock::Clock;
pub use self::driver::DriverError;
pub use self::event::Event;
pub(crate) use self::failure::failure;
pub(crate) use self::memory::DeviceMemory;
pub(crate) use self::module::{Function, Kernel};
pub(crate) use self::probe::count;
use self::staging::Staging;
pub(crate) use self::staging::{PIECE, Reading};
use crate::kernels::archive::Target;
use crate::launch::OWN_SHARED;

/// A card, opened. Its primary context is shared with whatever else this process does on the card.
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) target: Target,
    pub(crate) total_memory: u64,
    /// CUDA version of the driver: 12 000 + 10 · minor ….
    pub(crate) version: i32,
    pub(crate) multiprocessors: u32,
    /// Bytes of shared memory that a launch can give a block, beside its kernel's [`OWN_SHARED`].
    pub(crate) shared_memory: u32,
    /// Whether a launch can have all its blocks run at once.
    pub(crate) cooperates: bool,
    pub(crate) clock: Clock,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    pub(crate) stream: sys::CUstream,
    staging: Staging,
    /// What killed the context.
    lost: OnceLock<String>,
}

#[expect(unsafe_code, reason = "handles of the driver are pointers")]
// SAFETY: the driver's contexts and streams may be used from any thread; every call binds the context first.
unsafe impl Send for Device {}
#[expect(unsafe_code, reason = "handles of the driver are pointers")]
// SAFETY: as for `Send`; the driver synchronises calls on one stream itself.
unsafe impl Sync for Device {}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, target, lost, .. } = self;
        f.debug_struct("Device")
            .field("name", name)
            .field("target", target)
            .field("lost", lost)
            .finish_non_exhaustive()
    }
}

#[expect(unsafe_code, reason = "calls of the driver")]
impl Device {
    /// Opens a card; `target` lowers the compute capability that kernels are chosen for.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without a driver or that card, [`Error::Argument`] for a target above the card's.
    pub(crate) fn open(ordinal: usize, target: Option<(u32, u32)>) -> Result<Arc<Self>> {
        let count = count()?;
        let number = i32::try_from(ordinal).ok().filter(|_| ordinal < count);
        let Some(number) = number else { return Err(failure::no_such_device(ordinal, count)) };
        let failed = |e: DriverError| failure("opening the device", e);
        let mut handle = 0;
        // SAFETY: writes a handle.
        unsafe { driver::device_get(&raw mut handle, number) }.map_err(failed)?;
        let card = capability(handle).map_err(failed)?;
        if let Some(target) = target.filter(|t| *t > card) {
            let reason = format!("{target:?} is above the compute capability of the card, {card:?}");
            return Err(Error::Argument { name: "kernel_target", reason });
        }
        let (name, total_memory) = (name(handle).map_err(failed)?, total_memory(handle).map_err(failed)?);
        let mut context = std::ptr::null_mut();
        // SAFETY: the primary context is retained here, once, and released in `drop`.
        unsafe { driver::primary_ctx_retain(&raw mut context, handle) }.map_err(failed)?;
        let mut device = Self {
            name,
            target: Target { capability: target.unwrap_or(card), card },
            total_memory,
            version: version().map_err(failed)?,
            multiprocessors: attribute(handle, At::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
                .map_err(failed)?,
            shared_memory: attribute(handle, At::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
                .map_err(failed)?
                .saturating_sub(OWN_SHARED),
            cooperates: attribute(handle, At::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH).map_err(failed)? > 0,
            clock: Clock::default(),
            handle,
            context,
            stream: std::ptr::null_mut(),
            staging: Staging::default(),
            lost: OnceLock::new(),
        };
        device.bind()?;
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: writes a handle; the context is current.
        unsafe { driver::stream_create(&raw mut device.stream, flags) }.map_err(failed)?;
        Ok(Arc::new(device))
    }

    /// Makes the context the current one of this thread.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] from the first error on that killed the context.
    pub(crate) fn bind(&self) -> Result<()> {
        self.alive()?;
        // SAFETY: the context is retained as long as `self` lives.
        unsafe { driver::ctx_set_current(self.context) }.map_err(|e| self.failed("binding the context", e))
    }

    /// Whether nothing has killed the context so far.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] otherwise.
    pub(crate) fn alive(&self) -> Result<()> {
        match self.lost.get() {
            None => Ok(()),
            Some(reason) => Err(Error::DeviceLost { backend: "cuda".into(), reason: reason.clone() }),
        }
    }

    /// The error of a failed call. One that killed the context is kept for all later calls.
    pub(crate) fn failed(&self, op: &str, error: DriverError) -> Error {
        self.noted(failure(op, error))
    }

    fn noted(&self, error: Error) -> Error {
        if let Error::DeviceLost { reason, .. } = &error {
            let _ = self.lost.set(reason.clone());
        }
        error
    }

    pub(crate) fn synchronize(&self) -> Result<()> {
        self.bind()?;
        let wait = self.clock.begin();
        // SAFETY: the stream lives as long as `self`.
        unsafe { driver::stream_synchronize(self.stream) }.map_err(|e| self.failed("synchronize", e))?;
        self.clock.finish(wait);
        Ok(())
    }

    /// Sets device memory to 0.
    pub(crate) fn clear(&self, address: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller has `bytes` bytes at `address`.
        unsafe { driver::memset_d8_async(address, 0, bytes, self.stream) }
            .map_err(|e| self.failed("clearing", e))
    }

    /// Queues a copy from device memory to other device memory.
    pub(crate) fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller has `bytes` bytes at both addresses, which stay allocated until the copy has run.
        unsafe { driver::memcpy_dtod_async(to, from, bytes, self.stream) }
            .map_err(|e| self.failed("copying", e))
    }

    /// Free bytes of the device.
    pub(crate) fn free(&self) -> Result<u64> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two integers.
        unsafe { driver::mem_get_info(&raw mut free, &raw mut total) }
            .map_err(|e| self.failed("asking for free memory", e))?;
        Ok(free as u64)
    }
}

#[expect(unsafe_code, reason = "calls of the driver")]
impl Drop for Device {
    /// Waits, then gives everything back. On a dead context only the context itself can be: what it holds goes with it. A
    /// failure here has no one to tell.
    fn drop(&mut self) {
        if self.synchronize().is_ok() {
            self.staging.clear();
            if !self.stream.is_null() {
                // SAFETY: nothing uses the stream any more.
                let _ = unsafe { driver::stream_destroy(self.stream) };
            }
        }
        // SAFETY: retained once in `open`.
        let _ = unsafe { driver::primary_ctx_release(self.handle) };
    }
}

#[expect(unsafe_code, reason = "calls of the driver")]
fn attribute(handle: sys::CUdevice, which: CUdevice_attribute) -> Result<u32, DriverError> {
    let mut value = 0;
    // SAFETY: writes one integer.
    unsafe { driver::device_attribute(&raw mut value, which, handle) }?;
    Ok(value.unsigned_abs())
}

fn capability(handle: sys::CUdevice) -> Result<(u32, u32), DriverError> {
    Ok((
        attribute(handle, At::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(handle, At::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    ))
}

#[expect(unsafe_code, reason = "a call of the driver")]
fn version() -> Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: writes one integer.
    unsafe { driver::driver_version(&raw mut version) }?;
    Ok(version)
}

#[expect(unsafe_code, reason = "calls of the driver")]
fn name(handle: sys::CUdevice) -> Result<String, DriverError> {
    let mut name = [0u8; 256];
    // SAFETY: writes at most as many bytes, the NUL among them.
    unsafe { driver::device_name(name.as_mut_ptr().cast(), name.len() as i32, handle) }?;
    Ok(CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned())
}

#[expect(unsafe_code, reason = "calls of the driver")]
fn total_memory(handle: sys::CUdevice) -> Result<u64, DriverError> {
    let mut bytes = 0;
    // SAFETY: writes one integer.
    unsafe { driver::device_total_mem(&raw mut bytes, handle) }?;
    Ok(bytes as u64)
}
