//! Copies between host and device through pinned memory.
//!
//! A transfer is cut into pieces. A thread takes the slot that has been in use for longest, waits until the copy it was
//! last used for is over, fills it and queues its copy, so that some slots are filled while others are in flight. Nobody
//! waits for the last copies of an upload: they are in the stream, before whatever uses the memory.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use backend_api::{Fill, Result};
use cudarc::driver::sys;

use super::event::RawEvent;
use super::{Device, DriverError, driver};
use crate::threads::on_threads;

/// Bytes of a slot: enough for the bus to run at its speed.
pub(crate) const PIECE: usize = 4 << 20;

/// Threads that fill or empty slots for one transfer.
const MOST_THREADS: usize = 8;

/// Slots beyond which a thread waits for one in flight rather than make another.
const SLOTS: usize = 2 * MOST_THREADS;

/// Page-locked host memory that the device reads and writes by itself.
struct Slot {
    memory: *mut u8,
    /// Behind the last copy that used the memory.
    done: RawEvent,
}

#[expect(unsafe_code, reason = "pinned memory is a pointer")]
// SAFETY: the memory belongs to the slot alone and may be used from any thread.
unsafe impl Send for Slot {}

/// A copy from the device that is on its way.
pub(crate) struct Reading {
    device: Arc<Device>,
    /// Gone once it is given back.
    slot: Option<Slot>,
    length: usize,
}

impl Reading {
    /// Queues a copy of at most [`PIECE`] bytes that the caller owns.
    pub(crate) fn queue(device: &Arc<Device>, address: u64, length: usize) -> Result<Self> {
        device.bind()?;
        let slot = device.staging.take(device)?;
        let reading = Self { device: device.clone(), slot: Some(slot), length };
        if let Some(slot) = &reading.slot {
            slot.fetch(device, address, length).map_err(|e| device.failed("a copy from the device", e))?;
        }
        Ok(reading)
    }

    /// Waits for the copy.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        let Some(slot) = &mut self.slot else { return Ok(Vec::new()) };
        self.device.bind()?;
        slot.done.wait().map_err(|e| self.device.failed("a copy from the device", e))?;
        Ok(slot.bytes(self.length).to_vec())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.device.staging.give(slot);
        }
    }
}

/// The slots that no thread holds, the one queued longest ago first.
#[derive(Default)]
pub(super) struct Staging {
    slots: Mutex<VecDeque<Slot>>,
    made: AtomicUsize,
}

impl Staging {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot whose memory is at rest.
    fn take(&self, device: &Device) -> Result<Slot> {
        let oldest = {
            let mut slots = self.lock();
            let wait = self.made.load(Relaxed) >= SLOTS;
            let ready = slots.front().is_some_and(|slot| wait || slot.done.is_past());
            if ready { slots.pop_front() } else { None }
        };
        let slot = match oldest {
            Some(slot) => slot,
            None => match self.make(device) {
                Ok(slot) => return Ok(slot),
                // Fewer slots than there might be do as well.
                Err(e) => self.lock().pop_front().ok_or(e)?,
            },
        };
        match slot.done.wait() {
            Ok(()) => Ok(slot),
            Err(e) => {
                // On a dead context the memory stays allocated; otherwise it serves again.
                self.give(slot);
                Err(device.failed("a copy", e))
            }
        }
    }

    #[expect(unsafe_code, reason = "calls of the driver")]
    fn make(&self, device: &Device) -> Result<Slot> {
        let failed = |e| device.failed("page-locking host memory", e);
        let done = RawEvent::new(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(failed)?;
        let mut memory: *mut c_void = std::ptr::null_mut();
        // SAFETY: writes the address of memory that nothing refers to yet.
        if let Err(e) = unsafe { driver::mem_host_alloc(&raw mut memory, PIECE, 0) } {
            done.destroy();
            return Err(failed(e));
        }
        // SAFETY: the memory has that many bytes; written once so that reading it is defined.
        unsafe { memory.cast::<u8>().write_bytes(0, PIECE) };
        self.made.fetch_add(1, Relaxed);
        Ok(Slot { memory: memory.cast(), done })
    }

    fn give(&self, slot: Slot) {
        self.lock().push_back(slot);
    }

    /// Gives all slots back; the context is current and no copy is in flight.
    #[expect(unsafe_code, reason = "calls of the driver")]
    pub(super) fn clear(&mut self) {
        for slot in self.slots.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            slot.done.destroy();
            // SAFETY: nothing refers to the memory any more.
            let _ = unsafe { driver::mem_host_free(slot.memory.cast()) };
        }
    }
}

impl Device {
    /// Fills `bytes` bytes at `address`, which the caller owns. Returns when `fill` is no longer needed; the last copies
    /// may still be in flight, in the stream's order.
    ///
    /// # Errors
    /// The first error of `fill`, and what the driver answers.
    pub(crate) fn upload(&self, address: u64, bytes: usize, fill: Fill<'_>) -> Result<()> {
        let piece = |offset: usize, length: usize| {
            self.bind()?;
            let mut slot = self.staging.take(self)?;
            let filled = fill(offset, slot.bytes(length));
            // What fills may read from another card.
            self.bind()?;
            let queued = filled.and_then(|()| slot.send(self, address + offset as u64, length));
            self.staging.give(slot);
            queued
        };
        in_pieces(bytes, &piece)
    }

    /// Copies to device memory that the caller owns; returns when `src` may be reused.
    pub(crate) fn write(&self, address: u64, src: &[u8]) -> Result<()> {
        self.upload(address, src.len(), &|offset, out| {
            if let Some(part) = src.get(offset..offset + out.len()) {
                out.copy_from_slice(part);
            }
            Ok(())
        })
    }

    /// Copies from device memory that the caller owns, after everything issued before.
    pub(crate) fn read(&self, address: u64, out: &mut [u8]) -> Result<()> {
        let bytes = out.len();
        let parts = Mutex::new(out.chunks_mut(PIECE).map(Some).collect::<Vec<_>>());
        let piece = |offset: usize, length: usize| {
            let part = {
                let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
                parts.get_mut(offset / PIECE).and_then(Option::take)
            };
            self.bind()?;
            let mut slot = self.staging.take(self)?;
            let got = slot.receive(self, address + offset as u64, length);
            if let (Ok(()), Some(part)) = (&got, part) {
                part.copy_from_slice(slot.bytes(length));
            }
            self.staging.give(slot);
            got
        };
        in_pieces(bytes, &piece)
    }
}

#[expect(unsafe_code, reason = "pinned memory and calls of the driver")]
impl Slot {
    /// The first `length` bytes, at most [`PIECE`].
    fn bytes(&mut self, length: usize) -> &mut [u8] {
        // SAFETY: a slot has `PIECE` bytes, initialised and its alone; whoever holds it waited for its last copy.
        unsafe { std::slice::from_raw_parts_mut(self.memory, length.min(PIECE)) }
    }

    /// Queues the copy of the first `length` bytes to `address`.
    fn send(&self, device: &Device, address: u64, length: usize) -> Result<()> {
        let from = self.memory.cast_const().cast();
        // SAFETY: the caller of the transfer owns the device memory; the slot is not touched before `done`.
        unsafe { driver::memcpy_htod_async(address, from, length.min(PIECE), device.stream) }
            .and_then(|()| self.done.record(device))
            .map_err(|e| device.failed("a copy to the device", e))
    }

    /// Queues a copy of `length` bytes from `address`.
    fn fetch(&self, device: &Device, address: u64, length: usize) -> Result<(), DriverError> {
        // SAFETY: the caller of the transfer owns the device memory; the slot is not touched before `done`.
        unsafe { driver::memcpy_dtoh_async(self.memory.cast(), address, length.min(PIECE), device.stream) }
            .and_then(|()| self.done.record(device))
    }

    /// Copies `length` bytes from `address` and waits for them.
    fn receive(&self, device: &Device, address: u64, length: usize) -> Result<()> {
        self.fetch(device, address, length)
            .and_then(|()| self.done.wait())
            .map_err(|e| device.failed("a copy from the device", e))
    }
}

/// Calls `piece(offset, length)` for every piece of `bytes` bytes, on several threads where there are several.
fn in_pieces(bytes: usize, piece: &(dyn Fn(usize, usize) -> Result<()> + Sync)) -> Result<()> {
    let length = |index: usize| (bytes - index * PIECE).min(PIECE);
    let pieces = bytes.div_ceil(PIECE);
    if pieces <= 1 {
        return if bytes == 0 { Ok(()) } else { piece(0, bytes) };
    }
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let index = next.fetch_add(1, Relaxed);
            if index >= pieces {
                return Ok(());
            }
            // The others find nothing left to do after a failure.
            piece(index * PIECE, length(index)).inspect_err(|_| next.store(pieces, Relaxed))?;
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(MOST_THREADS).min(pieces);
    on_threads(threads, work)
}

#[cfg(test)]
mod tests {
    use backend_api::Error;

    use super::*;

    #[test]
    fn pieces_cover_every_byte_once() {
        for bytes in [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE, 33 * PIECE + 7] {
            let seen = Mutex::new(Vec::new());
            in_pieces(bytes, &|offset, length| {
                seen.lock().unwrap().push((offset, length));
                Ok(())
            })
            .unwrap();
            let mut seen = seen.into_inner().unwrap();
            seen.sort();
            let mut end = 0;
            for (offset, length) in seen {
                assert_eq!(offset, end);
                assert!(length > 0 && length <= PIECE);
                end += length;
            }
            assert_eq!(end, bytes);
        }
    }

    #[test]
    fn the_first_error_ends_the_work() {
        let calls = AtomicUsize::new(0);
        let failed = in_pieces(1000 * PIECE, &|offset, _| {
            calls.fetch_add(1, Relaxed);
            if offset == 3 * PIECE { Err(Error::Cancelled) } else { Ok(()) }
        });
        assert!(matches!(failed, Err(Error::Cancelled)), "{failed:?}");
        assert!(calls.into_inner() < 900);
    }

    #[test]
    fn panics_come_through() {
        let run = || in_pieces(4 * PIECE, &|_, _| panic!("of the caller"));
        assert!(std::panic::catch_unwind(run).is_err());
    }
}
