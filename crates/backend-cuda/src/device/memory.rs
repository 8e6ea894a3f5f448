//! The pool's way to a device.

use std::sync::Arc;

use backend_api::Result;

use super::driver::{self, code};
use super::{Device, DriverError};
use crate::pool::{RawAllocator, RawError};

/// Device memory as the driver gives it.
#[derive(Debug)]
pub(crate) struct DeviceMemory(pub(crate) Arc<Device>);

#[expect(unsafe_code, reason = "calls of the driver")]
impl RawAllocator for DeviceMemory {
    fn allocate(&self, bytes: u64) -> Result<u64, RawError> {
        self.0.bind().map_err(RawError::Other)?;
        let Ok(bytes) = usize::try_from(bytes) else { return Err(RawError::OutOfMemory) };
        let mut address = 0;
        // SAFETY: writes an address of memory that nothing refers to yet.
        match unsafe { driver::mem_alloc(&raw mut address, bytes) } {
            Ok(()) => Ok(address),
            Err(DriverError(code::OUT_OF_MEMORY)) => Err(RawError::OutOfMemory),
            Err(e) => Err(RawError::Other(self.0.failed("allocating", e))),
        }
    }

    fn free(&self, address: u64) {
        // Work in flight may still use the memory. On a dead context nothing can be given back, nor reported from here.
        if self.0.synchronize().is_ok() {
            // SAFETY: `address` came from `allocate`, and the pool frees it once.
            let _ = unsafe { driver::mem_free(address) };
        }
    }

    fn free_bytes(&self) -> u64 {
        self.0.free().unwrap_or(0)
    }

    fn poison(&self, address: u64, bytes: u64) -> Result<()> {
        self.0.bind()?;
        let Ok(bytes) = usize::try_from(bytes) else { return Ok(()) };
        // SAFETY: the pool owns `bytes` bytes at `address`.
        unsafe { driver::memset_d8_async(address, 0xFF, bytes, self.0.stream) }
            .map_err(|e| self.0.failed("poison", e))
    }
}
