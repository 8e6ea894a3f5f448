//! A GPU: its context, its one stream, and the calls of the driver on them.

use std::ffi::CString;

use backend_api::{Error, Result};
use cudarc::driver::{DriverError, result, sys};

use crate::pool::{RawAllocator, RawError};

/// What the probe looks for; names that a dynamic loader resolves, never a path of the current folder.
const SEARCHED: [&str; 3] = ["libcuda.so", "libcuda.so.1", "nvcuda.dll"];

/// A card, opened.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) capability: (u32, u32),
    pub(crate) total_memory: u64,
    pub(crate) multiprocessors: u32,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    pub(crate) stream: sys::CUstream,
}

#[expect(unsafe_code, reason = "handles of the driver are pointers")]
// SAFETY: the driver's contexts and streams may be used from any thread; every call binds the context first.
unsafe impl Send for Device {}
#[expect(unsafe_code, reason = "handles of the driver are pointers")]
// SAFETY: as for `Send`; the driver synchronises calls on one stream itself.
unsafe impl Sync for Device {}

fn unavailable(reason: String) -> Error {
    Error::Unavailable { backend: "cuda".into(), reason, searched: SEARCHED.map(String::from).to_vec() }
}

/// Whether a driver and a card are there; creates no context.
pub(crate) fn count() -> Result<usize> {
    if !present() {
        return Err(unavailable("no NVIDIA driver was found; install one, or use the CPU".into()));
    }
    let failed =
        |e: DriverError| unavailable(format!("the driver does not start ({e:?}); update it, or use the CPU"));
    result::init().map_err(failed)?;
    let count = result::device::get_count().map_err(failed)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

#[expect(unsafe_code, reason = "opens the driver's library")]
fn present() -> bool {
    // SAFETY: opening the driver's library runs its initialisers, which is what using it means.
    unsafe { sys::is_culib_present() }
}

#[expect(unsafe_code, reason = "calls of the driver")]
impl Device {
    pub(crate) fn open(ordinal: usize) -> Result<Self> {
        let count = count()?;
        if ordinal >= count {
            return Err(unavailable(format!("there is no GPU number {ordinal}; this machine has {count}")));
        }
        let failed = |e: DriverError| failure("opening the device", e);
        let handle = result::device::get(ordinal as i32).map_err(failed)?;
        let name = result::device::get_name(handle).map_err(failed)?;
        // SAFETY: `handle` is a device that the driver gave.
        let (total_memory, major, minor, multiprocessors) = unsafe {
            use sys::CUdevice_attribute::{
                CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
                CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
                CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS,
            };
            let attribute = |a| result::device::get_attribute(handle, a);
            let total = result::device::total_mem(handle).map_err(failed)? as u64;
            let [major, minor, multiprocessors] = [MAJOR, MINOR, MULTIPROCESSORS].map(attribute);
            (total, major.map_err(failed)?, minor.map_err(failed)?, multiprocessors.map_err(failed)?)
        };
        let capability = (major.unsigned_abs(), minor.unsigned_abs());
        let multiprocessors = multiprocessors.unsigned_abs();
        // SAFETY: the primary context is retained here and released in `drop`.
        let context = unsafe { result::primary_ctx::retain(handle) }.map_err(failed)?;
        let null = std::ptr::null_mut();
        let mut device =
            Self { name, capability, total_memory, multiprocessors, handle, context, stream: null };
        device.bind()?;
        device.stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed)?;
        Ok(device)
    }

    /// Makes the context the current one of this thread.
    pub(crate) fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| failure("binding the context", e))
    }

    pub(crate) fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| failure("synchronize", e))
    }

    /// Copies to device memory; returns when `src` may be reused.
    pub(crate) fn write(&self, address: u64, src: &[u8]) -> Result<()> {
        if src.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the caller checked that `src.len()` bytes at `address` are its own; the stream is drained before return.
        unsafe { result::memcpy_htod_async(address, src, self.stream) }.map_err(|e| failure("write", e))?;
        self.synchronize()
    }

    /// Copies from device memory, after everything issued before.
    pub(crate) fn read(&self, address: u64, out: &mut [u8]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the caller checked that `out.len()` bytes at `address` are its own; the stream is drained before return.
        unsafe { result::memcpy_dtoh_async(out, address, self.stream) }.map_err(|e| failure("read", e))?;
        self.synchronize()
    }

    /// Free bytes of the device.
    pub(crate) fn free(&self) -> Result<u64> {
        self.bind()?;
        let (free, _) = result::mem_get_info().map_err(|e| failure("asking for free memory", e))?;
        Ok(free as u64)
    }

    /// Loads a PTX text and gives the function `name` in it, with leave to be given `shared` bytes of shared memory; module
    /// and function live until the context goes.
    pub(crate) fn load(&self, name: &str, ptx: &str, shared: u32) -> Result<sys::CUfunction> {
        self.bind()?;
        let text = |s: &str| {
            CString::new(s).map_err(|_| Error::Argument { name: "kernel", reason: "holds a NUL".into() })
        };
        let (image, entry) = (text(ptx)?, text(name)?);
        let failed = |e| failure(&format!("loading kernel `{name}`"), e);
        // SAFETY: `image` is a NUL-terminated PTX text that outlives the call.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(failed)?;
        // SAFETY: `module` was loaded just now and is never unloaded.
        let function = unsafe { result::module::get_function(module, entry) }.map_err(failed)?;
        if shared > 0 {
            use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST;
            // SAFETY: `function` is one of a module that stays loaded.
            unsafe { result::function::set_function_attribute(function, MOST, shared as i32) }
                .map_err(failed)?;
        }
        Ok(function)
    }
}

#[expect(unsafe_code, reason = "calls of the driver")]
impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.synchronize();
        if !self.stream.is_null() {
            // SAFETY: nothing uses the stream any more. A failure here has no one to tell.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
        // SAFETY: retained in `open`.
        let _ = unsafe { result::primary_ctx::release(self.handle) };
    }
}

/// What the driver answered, as an error of the workspace.
pub(crate) fn failure(op: &str, error: DriverError) -> Error {
    use sys::CUresult as R;
    let reason = format!("{error:?}");
    match error.0 {
        R::CUDA_ERROR_ILLEGAL_ADDRESS
        | R::CUDA_ERROR_ASSERT
        | R::CUDA_ERROR_HARDWARE_STACK_ERROR
        | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | R::CUDA_ERROR_MISALIGNED_ADDRESS
        | R::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | R::CUDA_ERROR_INVALID_PC
        | R::CUDA_ERROR_LAUNCH_FAILED
        | R::CUDA_ERROR_LAUNCH_TIMEOUT
        | R::CUDA_ERROR_ECC_UNCORRECTABLE => Error::DeviceLost { backend: "cuda".into(), reason },
        _ => Error::Backend { backend: "cuda".into(), op: op.into(), reason },
    }
}

/// The pool's way to a device.
#[derive(Debug)]
pub(crate) struct DeviceMemory(pub(crate) std::sync::Arc<Device>);

#[expect(unsafe_code, reason = "calls of the driver")]
impl RawAllocator for DeviceMemory {
    fn allocate(&self, bytes: u64) -> Result<u64, RawError> {
        self.0.bind().map_err(RawError::Other)?;
        let Ok(bytes) = usize::try_from(bytes) else { return Err(RawError::OutOfMemory) };
        // SAFETY: memory that nothing refers to yet.
        unsafe { result::malloc_sync(bytes) }.map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => RawError::OutOfMemory,
            _ => RawError::Other(failure("allocating", e)),
        })
    }

    fn free(&self, address: u64) {
        // Work in flight may still use the memory. On a dead context nothing can be given back, nor reported from here.
        if self.0.synchronize().is_ok() {
            // SAFETY: `address` came from `allocate`, and the pool frees it once.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    fn free_bytes(&self) -> u64 {
        self.0.free().unwrap_or(0)
    }

    fn poison(&self, address: u64, bytes: u64) -> Result<()> {
        self.0.bind()?;
        let Ok(bytes) = usize::try_from(bytes) else { return Ok(()) };
        // SAFETY: the pool owns `bytes` bytes at `address`.
        unsafe { result::memset_d8_async(address, 0xFF, bytes, self.0.stream) }
            .map_err(|e| failure("poison", e))
    }
}
