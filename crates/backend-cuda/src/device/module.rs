//! Kernels as the driver holds them.
//!
//! They are loaded as libraries, which belong to no context: the driver then compiles several at once, where it would
//! compile modules of one context one after the other, and every backend of the process can use them.

use std::ffi::{CString, c_void};
use std::ptr::null_mut;

use backend_api::{Cause, Error, Result};
use cudarc::driver::sys::{self, CUfunction_attribute, CUjit_option};

use super::driver::{self, code};
use super::failure::refusal;
use super::{Device, DriverError};
use crate::KernelSource;

/// Bytes of the log that the driver's compiler writes.
const LOG: usize = 16 << 10;

/// Bytes of shared memory that every launch may ask for.
const SHARED: i32 = 48 << 10;

/// A loaded kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function {
    pub(crate) handle: sys::CUfunction,
    /// Whether the loaded variant waits for its predecessor itself.
    pub(crate) awaits: bool,
}

#[expect(unsafe_code, reason = "a handle of the driver is a pointer")]
// SAFETY: a function may be launched from any thread while its context lives, which its `Device` sees to.
unsafe impl Send for Function {}

/// A kernel in the process, whatever the context. It stays loaded until the process ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel(sys::CUkernel);

#[expect(unsafe_code, reason = "a handle of the driver is a pointer")]
// SAFETY: it may be used from any thread.
unsafe impl Send for Kernel {}

/// What the driver's compiler has to say.
struct Log(Vec<u8>);

impl Log {
    fn text(&self) -> String {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        String::from_utf8_lossy(self.0.get(..end).unwrap_or_default()).trim().to_owned()
    }
}

#[expect(unsafe_code, reason = "calls of the driver")]
impl Device {
    /// Loads an image that came from `source`, PTX text or a cubin, and gives the kernel `name` in it, compiled for this card.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the image does not suit driver or card, with the log of the driver's compiler;
    /// [`Error::Backend`] for what else the driver answers.
    pub(crate) fn load(&self, name: &str, source: KernelSource, mut image: Vec<u8>) -> Result<Kernel> {
        self.bind()?;
        let entry = CString::new(name)
            .map_err(|_| Error::Argument { name: "kernel", reason: "its name holds a NUL".into() })?;
        image.push(0);
        let (mut library, mut kernel) = (null_mut(), null_mut());
        // SAFETY: `image` ends with a NUL as PTX must and outlives the call, which is given no options and writes a handle.
        let loaded = unsafe {
            let data = image.as_ptr().cast();
            driver::library_load_data(
                &raw mut library,
                data,
                null_mut(),
                null_mut(),
                0,
                null_mut(),
                null_mut(),
                0,
            )
        };
        // SAFETY: the library was loaded just now; `entry` ends with a NUL; writes a handle.
        let found = loaded
            .and_then(|()| unsafe { driver::library_get_kernel(&raw mut kernel, library, entry.as_ptr()) })
            .and_then(|()| self.resolve(Kernel(kernel)));
        match found {
            Ok(_) => Ok(Kernel(kernel)),
            Err(e) => {
                let log = self.compiler_log(&image);
                if loaded.is_ok() {
                    // SAFETY: nothing has the handle any more.
                    let _ = unsafe { driver::library_unload(library) };
                }
                Err(with_log(self.noted(refusal(name, source, e)), &log))
            }
        }
    }

    /// The kernel in this device's context, whose launches may ask for `shared` bytes of shared memory, or as much as the card
    /// has.
    pub(crate) fn function(&self, kernel: Kernel, shared: u32) -> Result<Function> {
        self.bind()?;
        let failed = |e| self.failed("loading a kernel", e);
        let function = self.resolve(kernel).map_err(failed)?;
        let shared = shared.min(self.shared_memory) as i32;
        if shared > SHARED {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as u32;
            // SAFETY: the function was resolved just now.
            unsafe { driver::func_set_attribute(function.handle, most, shared) }.map_err(failed)?;
        }
        Ok(function)
    }

    fn resolve(&self, kernel: Kernel) -> Result<Function, DriverError> {
        let mut function = null_mut();
        // SAFETY: kernels are never unloaded; the context is current; writes a handle.
        unsafe { driver::kernel_get_function(&raw mut function, kernel.0) }?;
        Ok(Function { handle: function, awaits: false })
    }

    /// What the driver's compiler says of an image that would not load; libraries give no log, so it is loaded as a module.
    fn compiler_log(&self, image: &[u8]) -> String {
        let (mut error, mut info) = (Log(vec![0; LOG]), Log(vec![0; LOG]));
        let mut names = [
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
            CUjit_option::CU_JIT_INFO_LOG_BUFFER,
            CUjit_option::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
        ];
        // One byte is kept from the driver, so that a log always ends.
        let size = std::ptr::without_provenance_mut::<c_void>(LOG - 1);
        let mut values: [*mut c_void; 4] =
            [error.0.as_mut_ptr().cast(), size, info.0.as_mut_ptr().cast(), size];
        let mut module = null_mut();
        // SAFETY: `image` ends with a NUL and outlives the call, as do the logs of the stated sizes; each value is of its
        // option's kind; writes a handle, which is given back.
        unsafe {
            let (names, values) = (names.as_mut_ptr(), values.as_mut_ptr());
            if driver::module_load_data_ex(&raw mut module, image.as_ptr().cast(), 4, names, values).is_ok() {
                let _ = driver::module_unload(module);
            }
        }
        let error = error.text();
        if error.is_empty() { info.text() } else { error }
    }

    /// Offset and size in bytes of the first `count` parameters of a loaded kernel, or of those it has; none where the
    /// driver is too old to tell.
    ///
    /// # Errors
    /// What the driver answers.
    pub(crate) fn parameters(&self, function: Function, count: usize) -> Result<Option<Vec<(usize, usize)>>> {
        self.bind()?;
        let mut found = Vec::new();
        while found.len() < count {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: the function is loaded; writes two integers.
            let answer = unsafe {
                driver::func_get_param_info(function.handle, found.len(), &raw mut offset, &raw mut size)
            };
            match answer {
                Ok(()) => found.push((offset, size)),
                Err(DriverError(code::INVALID_VALUE)) => break,
                Err(DriverError(code::NOT_FOUND)) => return Ok(None),
                Err(e) => return Err(self.failed("asking for parameters", e)),
            }
        }
        Ok(Some(found))
    }
}

/// A failed load with what the compiler said about it.
fn with_log(failed: Error, log: &str) -> Error {
    if log.is_empty() {
        return failed;
    }
    match failed {
        Error::Unavailable { backend, cause, reason, searched } => {
            // Some drivers call all PTX invalid that their compiler stops at; its log says why.
            let cause = match cause {
                Cause::InvalidPtx if log.contains("Unsupported .version") => Cause::PtxVersion,
                Cause::InvalidPtx if log.contains("SM version specified by .target") => Cause::NoKernelImage,
                other => other,
            };
            Error::Unavailable { backend, cause, reason: format!("{reason}; its log:\n{log}"), searched }
        }
        Error::Backend { backend, op, reason } => {
            Error::Backend { backend, op, reason: format!("{reason}; its log:\n{log}") }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::failure;

    #[test]
    fn logs_end_up_in_the_error() {
        let invalid = || failure("loading kernel `k`", DriverError(code::INVALID_PTX));
        let text = with_log(invalid(), "ptxas line 3: parse error").to_string();
        assert!(text.contains("ptxas line 3: parse error") && text.contains("its log"), "{text}");
        assert_eq!(with_log(invalid(), "").to_string(), invalid().to_string());
        let newer = with_log(invalid(), "ptxas fatal: Unsupported .version 9.9; current version is '8.0'");
        assert!(matches!(newer, Error::Unavailable { cause: Cause::PtxVersion, .. }), "{newer}");
        let target = with_log(invalid(), "SM version specified by .target is higher than default");
        assert!(matches!(target, Error::Unavailable { cause: Cause::NoKernelImage, .. }), "{target}");
        let other = with_log(failure("loading kernel `k`", DriverError(701)), "info").to_string();
        assert!(other.contains("info"), "{other}");
    }

    #[test]
    fn a_log_ends_at_its_nul() {
        assert_eq!(Log(b" text \0rest".to_vec()).text(), "text");
        assert_eq!(Log(b"full".to_vec()).text(), "full");
        assert_eq!(Log(Vec::new()).text(), "");
    }
}
