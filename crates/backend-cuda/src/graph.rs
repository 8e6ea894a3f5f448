//! Steps that are captured once and replayed after.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ptr::null_mut;
use std::sync::Arc;

use backend_api::{Error, Result};
use cudarc::driver::sys::{CUgraph, CUgraphExec, CUstream, CUstream_flags, CUstreamCaptureMode};

use crate::device::driver::{self, code};
use crate::device::{Device, DeviceMemory, DriverError};
use crate::pool::Block;
use crate::quiet::Undisturbed;

/// A decoding step, ready to run again. It keeps alive the memory of all tensors that the step touches.
#[derive(Debug, Default)]
pub struct CudaGraph(State);

#[derive(Debug, Default)]
enum State {
    /// Nothing ran yet. The first run loads kernels and finds memory, so it is not captured.
    #[default]
    New,
    /// It ran once.
    Warm,
    /// It is captured.
    Ready(Ready),
    /// The step needs values that only the host has.
    Eager,
}

#[derive(Debug)]
struct Ready {
    graph: CUgraphExec,
    device: Arc<Device>,
    _touched: HashMap<u64, Arc<Block<DeviceMemory>>>,
}

#[expect(unsafe_code, reason = "a handle of the driver is a pointer")]
// SAFETY: a graph that is ready may be launched and destroyed from any thread, one at a time, which `&mut` sees to.
unsafe impl Send for Ready {}

/// What a run of a step was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// Issued one operation after the other.
    Eager,
    /// Captured, then launched.
    Captured,
    /// Launched again.
    Replayed,
}

impl CudaGraph {
    /// Runs a step: `body(true)` issues it, `body(false)` issues it without the values of the host.
    ///
    /// # Errors
    /// Those of `body` and of the driver; the graph is then empty again.
    pub(crate) fn run(
        &mut self,
        device: &Arc<Device>,
        body: &mut dyn FnMut(bool) -> Result<()>,
    ) -> Result<Run> {
        match std::mem::take(&mut self.0) {
            State::Ready(ready) if Arc::ptr_eq(&ready.device, device) => {
                ready.launch()?;
                self.0 = State::Ready(ready);
                Ok(Run::Replayed)
            }
            State::Warm => match capture(device, &mut || body(false)) {
                Ok(Some(ready)) => {
                    ready.launch()?;
                    self.0 = State::Ready(ready);
                    Ok(Run::Captured)
                }
                Ok(None) => self.eager(body, State::Warm),
                Err(Error::Captured { .. }) => self.eager(body, State::Eager),
                Err(error) => Err(error),
            },
            State::Eager => self.eager(body, State::Eager),
            State::New | State::Ready(_) => self.eager(body, State::Warm),
        }
    }

    fn eager(&mut self, body: &mut dyn FnMut(bool) -> Result<()>, after: State) -> Result<Run> {
        body(true)?;
        self.0 = after;
        Ok(Run::Eager)
    }
}

#[expect(unsafe_code, reason = "calls of the driver")]
impl Ready {
    fn launch(&self) -> Result<()> {
        self.device.bind()?;
        // SAFETY: the graph is alive, as are the tensors that it touches; scratch, counters and the library's workspace live as
        // long as the backend, which is the one that calls this; the stream is the device's.
        unsafe { driver::graph_launch(self.graph, self.device.stream) }
            .map_err(|e| self.device.failed("launching a captured step", e))
    }
}

#[expect(unsafe_code, reason = "a call of the driver")]
impl Drop for Ready {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: nobody else has the handle; one that still runs is freed when it has ended.
            let _ = unsafe { driver::graph_exec_destroy(self.graph) };
        }
    }
}

/// A capture of this thread.
struct Capture {
    /// Address of the device.
    device: usize,
    stream: CUstream,
    touched: HashMap<u64, Arc<Block<DeviceMemory>>>,
}

thread_local! {
    static CAPTURE: RefCell<Option<Capture>> = const { RefCell::new(None) };
}

/// Whether this thread captures work for a device.
pub(crate) fn is_capturing(device: &Device) -> bool {
    CAPTURE.with_borrow(|c| c.as_ref().is_some_and(|c| c.device == address(device)))
}

/// The stream that this thread's work for a device goes to.
pub(crate) fn stream(device: &Device) -> CUstream {
    CAPTURE.with_borrow(|c| match c {
        Some(capture) if capture.device == address(device) => capture.stream,
        _ => device.stream,
    })
}

/// Notes that the work that is being issued touches this memory.
pub(crate) fn touch(block: &Arc<Block<DeviceMemory>>) {
    CAPTURE.with_borrow_mut(|c| {
        if let Some(capture) = c {
            capture.touched.entry(block.address()).or_insert_with(|| block.clone());
        }
    });
}

/// What needs the device's answer, or memory, has no place in a captured step.
pub(crate) fn refuse(device: &Device, op: &'static str) -> Result<()> {
    if is_capturing(device) { Err(Error::Captured { op }) } else { Ok(()) }
}

fn address(device: &Device) -> usize {
    std::ptr::from_ref(device).addr()
}

/// Captures what `body` issues on this thread, on a stream of its own, so that other threads may go on using the backend. None
/// if the driver broke the capture off: a wait for the whole context, by whatever else the program has, does that to the
/// captures of every thread. Our own such waits keep away from captures, see [`crate::quiet`].
#[expect(unsafe_code, reason = "calls of the driver")]
fn capture(device: &Arc<Device>, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<Ready>> {
    if CAPTURE.with_borrow(Option::is_some) {
        return Err(Error::Captured { op: "step" });
    }
    let mut on = CaptureStream::begin(device)?;
    let issued = body();
    let touched = CAPTURE.take().map(|capture| capture.touched).unwrap_or_default();
    let ended = on.end();
    if matches!(ended, Err(DriverError(code::STREAM_CAPTURE_INVALIDATED))) {
        return Ok(None);
    }
    issued?;
    let failed = |e: DriverError| device.failed("capturing a step", e);
    let (graph, mut ready) = (ended.map_err(failed)?, null_mut());
    // SAFETY: the graph was captured just now; writes a handle.
    unsafe { driver::graph_instantiate(&raw mut ready, graph.0, 0) }.map_err(failed)?;
    Ok(Some(Ready { graph: ready, device: device.clone(), _touched: touched }))
}

/// A stream that is being captured. Dropped, it ends this thread's capture, also where the body failed or panics.
struct CaptureStream<'d> {
    device: &'d Device,
    stream: CUstream,
    captures: bool,
    _undisturbed: Undisturbed,
}

#[expect(unsafe_code, reason = "calls of the driver")]
impl<'d> CaptureStream<'d> {
    fn begin(device: &'d Device) -> Result<Self> {
        device.bind()?;
        let failed = |e: DriverError| device.failed("capturing a step", e);
        let mut stream = null_mut();
        // SAFETY: the context is current; writes a handle.
        unsafe { driver::stream_create(&raw mut stream, CUstream_flags::CU_STREAM_NON_BLOCKING as u32) }
            .map_err(failed)?;
        let mut on = Self { device, stream, captures: false, _undisturbed: Undisturbed::new() };
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is alive and idle.
        unsafe { driver::stream_begin_capture(stream, mode) }.map_err(failed)?;
        on.captures = true;
        CAPTURE.set(Some(Capture { device: address(device), stream, touched: HashMap::new() }));
        Ok(on)
    }

    /// The graph of what was captured; [`code::STREAM_CAPTURE_INVALIDATED`] if the driver has broken it off.
    fn end(&mut self) -> Result<Captured, DriverError> {
        self.captures = false;
        let mut graph = null_mut();
        // SAFETY: the capture was begun; writes a handle, or null if it was broken off.
        unsafe { driver::stream_end_capture(self.stream, &raw mut graph) }?;
        Ok(Captured(graph))
    }
}

#[expect(unsafe_code, reason = "calls of the driver")]
impl Drop for CaptureStream<'_> {
    fn drop(&mut self) {
        CAPTURE.set(None);
        if self.device.bind().is_err() {
            return;
        }
        if self.captures {
            drop(self.end());
        }
        // SAFETY: nothing was queued on the stream but for the capture, which has ended.
        let _ = unsafe { driver::stream_destroy(self.stream) };
    }
}

/// What was captured: a graph is made ready from it, and stands alone then.
struct Captured(CUgraph);

#[expect(unsafe_code, reason = "a call of the driver")]
impl Drop for Captured {
    fn drop(&mut self) {
        // SAFETY: nobody else has the handle.
        let _ = unsafe { driver::graph_destroy(self.0) };
    }
}
