//! The driver's functions, each resolved in the library that [`probe`](super::probe) chose when it is first called.
//!
//! cudarc gives the types and has functions of these names too, but its loader tries `libcuda.so` before `libcuda.so.1`,
//! so that a toolkit's stub can come before the driver, even when the driver is open already; it panics where a
//! library or symbol is missing; and it turns codes of newer drivers into an enum that does not have them. Nothing in this
//! crate calls the driver but through here, which a test of this file sees to.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::sync::OnceLock;

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec,
    CUjit_option, CUkernel, CUlaunchConfig, CUlibrary, CUlibraryOption, CUmodule, CUstream,
    CUstreamCaptureMode,
};

use super::probe;

/// A code of the driver other than success.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DriverError(pub u32);

/// Codes that are told apart; `cuda.h` names them `CUDA_ERROR_…`.
pub(crate) mod code {
    pub(crate) const INVALID_VALUE: u32 = 1;
    pub(crate) const OUT_OF_MEMORY: u32 = 2;
    pub(crate) const NOT_INITIALIZED: u32 = 3;
    pub(crate) const STUB_LIBRARY: u32 = 34;
    pub(crate) const DEVICE_UNAVAILABLE: u32 = 46;
    pub(crate) const NO_DEVICE: u32 = 100;
    pub(crate) const INVALID_DEVICE: u32 = 101;
    pub(crate) const INVALID_IMAGE: u32 = 200;
    pub(crate) const NO_BINARY_FOR_GPU: u32 = 209;
    pub(crate) const ECC_UNCORRECTABLE: u32 = 214;
    pub(crate) const INVALID_PTX: u32 = 218;
    pub(crate) const NVLINK_UNCORRECTABLE: u32 = 220;
    pub(crate) const JIT_COMPILER_NOT_FOUND: u32 = 221;
    pub(crate) const UNSUPPORTED_PTX_VERSION: u32 = 222;
    pub(crate) const JIT_COMPILATION_DISABLED: u32 = 223;
    pub(crate) const CONTAINED: u32 = 226;
    pub(crate) const NOT_FOUND: u32 = 500;
    pub(crate) const ILLEGAL_ADDRESS: u32 = 700;
    pub(crate) const LAUNCH_TIMEOUT: u32 = 702;
    pub(crate) const CONTEXT_IS_DESTROYED: u32 = 709;
    pub(crate) const ASSERT: u32 = 710;
    pub(crate) const HARDWARE_STACK_ERROR: u32 = 714;
    pub(crate) const ILLEGAL_INSTRUCTION: u32 = 715;
    pub(crate) const MISALIGNED_ADDRESS: u32 = 716;
    pub(crate) const INVALID_ADDRESS_SPACE: u32 = 717;
    pub(crate) const INVALID_PC: u32 = 718;
    pub(crate) const LAUNCH_FAILED: u32 = 719;
    pub(crate) const TENSOR_MEMORY_LEAK: u32 = 721;
    pub(crate) const SYSTEM_NOT_READY: u32 = 802;
    pub(crate) const SYSTEM_DRIVER_MISMATCH: u32 = 803;
    pub(crate) const COMPAT_NOT_SUPPORTED_ON_DEVICE: u32 = 804;
    pub(crate) const STREAM_CAPTURE_INVALIDATED: u32 = 901;
}

impl DriverError {
    /// The driver's name for the code and its sentence about it.
    #[expect(unsafe_code, reason = "calls of the driver")]
    pub(crate) fn text(self) -> String {
        let (mut name, mut sentence) = (std::ptr::null(), std::ptr::null());
        // SAFETY: both functions write a pointer to a text that lives as long as the library, or leave the null.
        let texts = unsafe {
            let _ = error_name(self.0, &raw mut name);
            let _ = error_string(self.0, &raw mut sentence);
            [name, sentence].map(|p| (!p.is_null()).then(|| CStr::from_ptr(p).to_string_lossy().into_owned()))
        };
        match texts {
            [Some(name), Some(sentence)] => format!("{name} ({}): {sentence}", self.0),
            _ => format!("code {} of the driver", self.0),
        }
    }
}

impl fmt::Debug for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// A function that answers with a code of the driver.
fn checked(code: u32) -> Result<(), DriverError> {
    if code == 0 { Ok(()) } else { Err(DriverError(code)) }
}

/// Declares functions of the driver: name here, name there, parameters. A symbol that the driver does not have answers
/// [`code::NOT_FOUND`].
macro_rules! functions {
    ($($(#[$doc:meta])* fn $name:ident = $symbol:literal($($arg:ident: $ty:ty),* $(,)?);)*) => {$(
        $(#[$doc])*
        #[expect(unsafe_code, reason = "a call of the driver")]
        #[expect(clippy::allow_attributes, reason = "most functions have few parameters")]
        #[allow(clippy::too_many_arguments, reason = "as the driver has them")]
        pub(crate) unsafe fn $name($($arg: $ty),*) -> Result<(), DriverError> {
            type Function = unsafe extern "system" fn($($ty),*) -> u32;
            static FUNCTION: OnceLock<Option<Function>> = OnceLock::new();
            let Some(library) = probe::opened() else { return Err(DriverError(code::NOT_INITIALIZED)) };
            // SAFETY: the type is the function's in `cuda.h`; the library is never closed.
            let found = FUNCTION.get_or_init(|| unsafe { library.get::<Function>($symbol).ok().map(|f| *f) });
            match found {
                // SAFETY: the caller's promise.
                Some(function) => checked(unsafe { function($($arg),*) }),
                None => Err(DriverError(code::NOT_FOUND)),
            }
        }
    )*};
}

functions! {
    fn error_name = "cuGetErrorName"(code: u32, name: *mut *const c_char);
    fn error_string = "cuGetErrorString"(code: u32, text: *mut *const c_char);
    fn device_get = "cuDeviceGet"(device: *mut CUdevice, ordinal: c_int);
    fn device_count = "cuDeviceGetCount"(count: *mut c_int);
    fn device_name = "cuDeviceGetName"(name: *mut c_char, length: c_int, device: CUdevice);
    fn device_attribute = "cuDeviceGetAttribute"(value: *mut c_int, of: CUdevice_attribute, device: CUdevice);
    fn device_total_mem = "cuDeviceTotalMem_v2"(bytes: *mut usize, device: CUdevice);
    fn primary_ctx_retain = "cuDevicePrimaryCtxRetain"(context: *mut CUcontext, device: CUdevice);
    fn primary_ctx_release = "cuDevicePrimaryCtxRelease_v2"(device: CUdevice);
    fn ctx_set_current = "cuCtxSetCurrent"(context: CUcontext);
    /// Breaks captures off, for a test.
    #[cfg(test)]
    fn ctx_synchronize = "cuCtxSynchronize"();
    fn stream_create = "cuStreamCreate"(stream: *mut CUstream, flags: c_uint);
    fn stream_synchronize = "cuStreamSynchronize"(stream: CUstream);
    fn driver_version = "cuDriverGetVersion"(version: *mut c_int);
    fn stream_begin_capture = "cuStreamBeginCapture_v2"(stream: CUstream, mode: CUstreamCaptureMode);
    fn stream_end_capture = "cuStreamEndCapture"(stream: CUstream, graph: *mut CUgraph);
    fn graph_instantiate = "cuGraphInstantiateWithFlags"(ready: *mut CUgraphExec, graph: CUgraph, flags: u64);
    fn graph_launch = "cuGraphLaunch"(ready: CUgraphExec, stream: CUstream);
    fn graph_exec_destroy = "cuGraphExecDestroy"(ready: CUgraphExec);
    fn graph_destroy = "cuGraphDestroy"(graph: CUgraph);
    fn stream_destroy = "cuStreamDestroy_v2"(stream: CUstream);
    fn mem_alloc = "cuMemAlloc_v2"(address: *mut CUdeviceptr, bytes: usize);
    fn mem_free = "cuMemFree_v2"(address: CUdeviceptr);
    fn mem_get_info = "cuMemGetInfo_v2"(free: *mut usize, total: *mut usize);
    fn mem_host_alloc = "cuMemHostAlloc"(memory: *mut *mut c_void, bytes: usize, flags: c_uint);
    fn mem_host_free = "cuMemFreeHost"(memory: *mut c_void);
    fn memcpy_htod_async = "cuMemcpyHtoDAsync_v2"(
        to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream,
    );
    fn memcpy_dtoh_async = "cuMemcpyDtoHAsync_v2"(
        to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream,
    );
    fn memcpy_dtod_async = "cuMemcpyDtoDAsync_v2"(
        to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream,
    );
    fn memset_d8_async = "cuMemsetD8Async"(address: CUdeviceptr, value: u8, bytes: usize, stream: CUstream);
    fn module_load_data_ex = "cuModuleLoadDataEx"(
        module: *mut CUmodule, image: *const c_void, options: c_uint, names: *mut CUjit_option,
        values: *mut *mut c_void,
    );
    fn module_unload = "cuModuleUnload"(module: CUmodule);
    fn library_load_data = "cuLibraryLoadData"(
        library: *mut CUlibrary, image: *const c_void, names: *mut CUjit_option, values: *mut *mut c_void, count: c_uint,
        library_names: *mut CUlibraryOption, library_values: *mut *mut c_void, library_count: c_uint,
    );
    fn library_unload = "cuLibraryUnload"(library: CUlibrary);
    fn library_get_kernel = "cuLibraryGetKernel"(kernel: *mut CUkernel, library: CUlibrary, name: *const c_char);
    fn kernel_get_function = "cuKernelGetFunction"(function: *mut CUfunction, kernel: CUkernel);
    /// Of drivers from 12.4 on.
    fn func_get_param_info = "cuFuncGetParamInfo"(
        function: CUfunction, index: usize, offset: *mut usize, size: *mut usize,
    );
    fn tensor_map_encode_tiled = "cuTensorMapEncodeTiled"(
        map: *mut c_void, element: c_uint, dimensions: c_uint, address: *mut c_void, sides: *const u64, steps: *const u64,
        boxed: *const c_uint, every: *const c_uint, interleave: c_uint, swizzle: c_uint, promotion: c_uint, fill: c_uint,
    );
    fn func_set_attribute = "cuFuncSetAttribute"(function: CUfunction, attribute: c_uint, value: c_int);
    fn launch_kernel_ex = "cuLaunchKernelEx"(
        config: *const CUlaunchConfig, function: CUfunction, params: *mut *mut c_void, extra: *mut *mut c_void,
    );
    fn event_create = "cuEventCreate"(event: *mut CUevent, flags: c_uint);
    fn event_record = "cuEventRecord"(event: CUevent, stream: CUstream);
    fn event_synchronize = "cuEventSynchronize"(event: CUevent);
    fn event_query = "cuEventQuery"(event: CUevent);
    fn event_elapsed_time = "cuEventElapsedTime"(milliseconds: *mut f32, start: CUevent, end: CUevent);
    fn event_destroy = "cuEventDestroy_v2"(event: CUevent);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn without_a_driver_calls_answer_a_code() {
        // In a process that has opened the driver this code is asked of it; both ways it is text and no panic.
        assert!(format!("{:?}", DriverError(700)).contains("700"));
    }

    /// Calls of cudarc's own functions would open a library by its rules.
    #[test]
    fn nothing_calls_the_driver_past_this_file() {
        fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    sources(&path, found);
                } else if !path.ends_with("device/driver.rs") {
                    found.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
        let mut found = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        assert!(found.len() > 10);
        for (file, text) in found {
            let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
            let types_only = code.split("cudarc::driver::").skip(1).all(|rest| rest.starts_with("sys"));
            assert!(
                types_only && !code.contains("sys::cu"),
                "{file} must call the driver through `device::driver`"
            );
        }
    }
}
