//! Matrix products through NVIDIA's cuBLASLt, opened at run time where it is found. Nothing needs it.

mod choice;
mod ffi;
mod op;
mod plan;
mod problem;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use backend_api::{Cause, Error, Result};
use cudarc::driver::sys::CUstream;
use libloading::Library;

pub(crate) use choice::{By, FEW};
pub(crate) use op::{is_there, matmul, start};

use crate::device::{Device, DeviceMemory};
use crate::graph;
use crate::libraries::{self, Here, Platform};
use crate::pool::{Block, Pool};
use crate::quiet::between_captures;
use ffi::{Api, Object};
use plan::{Plan, WORKSPACE};
use problem::{Gemm, Problem};

/// Plans that are kept; a prompt of each length has its own.
const MOST_PLANS: usize = 4096;

/// A backend's way to the library: opened by the first product that asks for it.
pub(crate) struct Blas {
    is_wanted: bool,
    opened: OnceLock<Result<Handle, Missing>>,
    /// Held by the thread that opens it.
    opening: Mutex<()>,
}

impl Blas {
    /// One that has opened nothing yet, and never will unless `is_wanted`.
    pub(crate) fn new(is_wanted: bool) -> Self {
        Self { is_wanted, opened: OnceLock::new(), opening: Mutex::default() }
    }

    /// The library. What is opened during a capture would end it, so that then there is none if it was not there before.
    fn get(&self, device: &Arc<Device>, pool: &Pool<DeviceMemory>) -> Result<&Handle, Absent<'_>> {
        if !self.is_wanted {
            return Err(Absent::Unwanted);
        }
        let known = || self.opened.get().map(|opened| opened.as_ref().map_err(Absent::Missing));
        if let Some(known) = known() {
            return known;
        }
        if graph::is_capturing(device) {
            return Err(Absent::Captured);
        }
        let _alone = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known() {
            return known;
        }
        // What lacks memory now may have it the next time.
        let opened = Handle::new(device, pool).map_err(Absent::Failed)?;
        self.opened.get_or_init(|| opened).as_ref().map_err(Absent::Missing)
    }

    /// Bytes that the library works in; none where there is no library. Opens it.
    pub(crate) fn workspace(&self, device: &Arc<Device>, pool: &Pool<DeviceMemory>) -> Option<u64> {
        self.get(device, pool).ok().map(|_| WORKSPACE as u64)
    }
}

/// Why there is no library to use.
enum Absent<'a> {
    /// The backend was told not to use it.
    Unwanted,
    /// This thread captures, and it was not opened before.
    Captured,
    /// It was not found, or does not start.
    Missing(&'a Missing),
    /// There is no memory for it, or no device any more.
    Failed(Error),
}

impl From<Absent<'_>> for Error {
    fn from(absent: Absent<'_>) -> Self {
        match absent {
            Absent::Unwanted => {
                let reason = "the backend was told not to use it".into();
                (&Missing { reason, searched: Vec::new() }).into()
            }
            Absent::Captured => Self::Captured { op: "opening cuBLAS" },
            Absent::Missing(missing) => missing.into(),
            Absent::Failed(error) => error,
        }
    }
}

/// Why the library was not found, or does not start.
#[derive(Debug)]
struct Missing {
    reason: String,
    /// What was looked for, and where.
    searched: Vec<String>,
}

impl From<libraries::Missing> for Missing {
    fn from(missing: libraries::Missing) -> Self {
        let reason = format!(
            "cuBLASLt 12 or 13, which multiplies many rows, {}; nothing needs it: own kernels take its place; to have it, install the CUDA toolkit or `pip install \
             nvidia-cublas-cu12`, or put its folder into LD_LIBRARY_PATH (on Windows PATH)",
            missing.reason()
        );
        Self { reason, searched: missing.searched }
    }
}

impl From<&Missing> for Error {
    fn from(missing: &Missing) -> Self {
        Self::Unavailable {
            backend: "cuBLAS".into(),
            cause: Cause::NoBlas,
            reason: missing.reason.clone(),
            searched: missing.searched.clone(),
        }
    }
}

/// The library on one device. It is never closed: its own threads and exit handlers run in it.
pub(crate) struct Handle {
    api: Api,
    handle: Object,
    /// Held while a product is queued: what another thread queued between the parts of a split sum would overwrite them.
    workspace: Mutex<Block<DeviceMemory>>,
    /// `None` for what the library cannot do.
    plans: Mutex<HashMap<Problem, Option<Arc<Plan>>>>,
    device: Arc<Device>,
}

#[expect(unsafe_code, reason = "a handle of the library is a pointer")]
// SAFETY: cuBLASLt's handle may be used from any thread; each call binds the context first.
unsafe impl Send for Handle {}
#[expect(unsafe_code, reason = "a handle of the library is a pointer")]
// SAFETY: as for `Send`; it has no settings that a call could change under another.
unsafe impl Sync for Handle {}

#[expect(unsafe_code, reason = "calls of the library")]
impl Handle {
    /// # Errors
    /// Those of the device, which say nothing of the library.
    fn new(device: &Arc<Device>, pool: &Pool<DeviceMemory>) -> Result<Result<Self, Missing>> {
        device.bind()?;
        let workspace = pool.allocate(WORKSPACE)?;
        let start = |library: &Library| -> Result<_, String> {
            let api = Api::of(library).map_err(|e| e.to_string())?;
            let mut handle = std::ptr::null_mut();
            // SAFETY: writes one object, tied to the context that is current.
            match unsafe { (api.create)(&mut handle) } {
                0 => Ok((api, handle)),
                // One that is too new for the driver does not start; an older one may.
                status => Err(format!("it does not start (status {status})")),
            }
        };
        let places = libraries::places(Platform::HERE, &Here);
        let opened = libraries::open("cublasLt", libraries::majors(device.version), &places, start);
        Ok(opened.map_err(Missing::from).map(|((api, handle), _)| Self {
            api,
            handle,
            workspace: Mutex::new(workspace),
            plans: Mutex::default(),
            device: device.clone(),
        }))
    }

    /// Name and version of the library.
    pub(crate) fn describe(&self) -> String {
        // SAFETY: takes nothing.
        let version = unsafe { (self.api.version)() };
        let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
        format!("cuBLASLt {major}.{minor}.{patch}")
    }

    /// Queues a product; false if the library has no way for it, having queued nothing. The same problem always takes
    /// the same algorithm: the same inputs give the same bits.
    ///
    /// # Errors
    /// What the library answers.
    ///
    /// # Safety
    /// The operands are device memory of the extent that `gemm` says, `stream` is the backend's, and what it has queued
    /// runs one after the other.
    pub(crate) unsafe fn matmul(&self, stream: CUstream, gemm: &Gemm) -> Result<bool> {
        let Some(problem) = gemm.problem() else { return Ok(false) };
        self.device.bind()?;
        let Some(plan) = self.plan(problem)? else { return Ok(false) };
        let workspace = self.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the plan is this problem's; the workspace is used by this stream alone, by one product after the other;
        // the rest is the caller's promise.
        let done = unsafe { plan.run(&self.api, self.handle, stream, workspace.address(), gemm) };
        drop(workspace);
        // The library does not say whether the context is dead; waiting for it does.
        let is_done = done.map_err(|e| self.device.synchronize().err().unwrap_or(e))?;
        if !is_done {
            self.plans().insert(problem, None);
        }
        Ok(is_done)
    }

    fn plans(&self) -> std::sync::MutexGuard<'_, HashMap<Problem, Option<Arc<Plan>>>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, problem: Problem) -> Result<Option<Arc<Plan>>> {
        let mut plans = self.plans();
        if let Some(plan) = plans.get(&problem) {
            return Ok(plan.clone());
        }
        let plan = Plan::new(&self.api, self.handle, &problem)?.map(Arc::new);
        if plans.len() >= MOST_PLANS {
            plans.clear();
        }
        plans.insert(problem, plan.clone());
        Ok(plan)
    }
}

impl Drop for Handle {
    /// The library waits for the whole context before it gives a handle back.
    fn drop(&mut self) {
        // On a dead context the handle is left alone: nothing of it can be given back.
        if self.device.synchronize().is_ok() {
            let last = Last { destroy: self.api.destroy, handle: self.handle, device: self.device.clone() };
            between_captures(Box::new(move || last.destroy()));
        }
    }
}

/// A handle that nothing uses any more.
struct Last {
    destroy: unsafe extern "C" fn(Object) -> ffi::Status,
    handle: Object,
    device: Arc<Device>,
}

#[expect(unsafe_code, reason = "a handle of the library is a pointer")]
// SAFETY: as for `Handle`.
unsafe impl Send for Last {}

#[expect(unsafe_code, reason = "a call of the library")]
impl Last {
    fn destroy(self) {
        if self.device.bind().is_ok() {
            // SAFETY: made in `Handle::new`, and no `Handle` has it any more; its context is current.
            let _ = unsafe { (self.destroy)(self.handle) };
        }
    }
}
