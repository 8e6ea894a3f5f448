//! Points in the stream's order, and the time between two of them.

use std::sync::Arc;

use backend_api::Result;
use cudarc::driver::sys;

use super::driver;
use super::{Device, DriverError};

/// The driver's event, bare: whoever owns it destroys it while the context lives.
#[derive(Debug)]
pub(super) struct RawEvent(sys::CUevent);

#[expect(unsafe_code, reason = "a handle of the driver is a pointer")]
// SAFETY: events may be used from any thread whose current context is theirs.
unsafe impl Send for RawEvent {}
#[expect(unsafe_code, reason = "a handle of the driver is a pointer")]
// SAFETY: the driver synchronises calls on one event itself.
unsafe impl Sync for RawEvent {}

#[expect(unsafe_code, reason = "calls of the driver")]
impl RawEvent {
    /// Makes one in the current context.
    pub(super) fn new(flags: sys::CUevent_flags) -> Result<Self, DriverError> {
        let mut event = std::ptr::null_mut();
        // SAFETY: writes a handle.
        unsafe { driver::event_create(&raw mut event, flags as u32) }?;
        Ok(Self(event))
    }

    /// Marks the present end of the stream.
    pub(super) fn record(&self, device: &Device) -> Result<(), DriverError> {
        // SAFETY: event and stream are alive and of one context.
        unsafe { driver::event_record(self.0, device.stream) }
    }

    /// Waits until the stream has come to the mark; at once where none was set.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the event is alive.
        unsafe { driver::event_synchronize(self.0) }
    }

    /// Whether the stream has come to the mark.
    pub(super) fn is_past(&self) -> bool {
        // SAFETY: the event is alive.
        unsafe { driver::event_query(self.0) }.is_ok()
    }

    /// Gives it back; the context is current.
    pub(super) fn destroy(self) {
        // SAFETY: nothing else has the handle.
        let _ = unsafe { driver::event_destroy(self.0) };
    }
}

/// A point in the order of a backend's operations.
#[derive(Debug)]
pub struct Event {
    device: Arc<Device>,
    event: Option<RawEvent>,
}

impl Event {
    /// Marks the present end of the stream.
    pub(crate) fn record(device: &Arc<Device>) -> Result<Self> {
        device.bind()?;
        let failed = |e| device.failed("recording an event", e);
        let event = RawEvent::new(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed)?;
        match event.record(device) {
            Ok(()) => Ok(Self { device: Arc::clone(device), event: Some(event) }),
            Err(e) => {
                event.destroy();
                Err(failed(e))
            }
        }
    }

    /// Milliseconds from this event to a later one; waits for it.
    #[expect(unsafe_code, reason = "calls of the driver")]
    pub(crate) fn until(&self, later: &Self) -> Result<f64> {
        self.device.bind()?;
        let failed = |e| self.device.failed("timing", e);
        let (Some(start), Some(end)) = (&self.event, &later.event) else { return Ok(0.0) };
        end.wait().map_err(failed)?;
        let mut milliseconds = 0.0;
        // SAFETY: both events are alive and recorded; writes one number.
        unsafe { driver::event_elapsed_time(&raw mut milliseconds, start.0, end.0) }.map_err(failed)?;
        Ok(f64::from(milliseconds))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Some(event) = self.event.take().filter(|_| self.device.bind().is_ok()) {
            event.destroy();
        }
    }
}
