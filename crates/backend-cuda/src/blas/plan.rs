//! How the library computes one problem: its descriptors and the algorithm.

use std::ffi::c_void;

use backend_api::{Error, Result};
use cudarc::driver::sys::CUstream;

use super::ffi::{self, Api, Candidate, Object, PreferenceAttribute as P, Status};
use super::problem::{Gemm, Matrix, Problem};

/// Bytes that an algorithm may use: what NVIDIA recommends for Hopper.
pub(super) const WORKSPACE: usize = 32 << 20;

/// What the library answered, as an error of the workspace.
pub(super) fn checked(op: &str, status: Status) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    let reason = format!("{} ({status})", ffi::name(status));
    Err(Error::Backend { backend: "cuBLAS".into(), op: op.into(), reason })
}

/// An object of the library, destroyed on drop.
struct Owned {
    object: Object,
    destroy: unsafe extern "C" fn(Object) -> Status,
}

#[expect(unsafe_code, reason = "objects of the library are pointers")]
// SAFETY: descriptors are plain memory of the host, without ties to a thread.
unsafe impl Send for Owned {}
#[expect(unsafe_code, reason = "objects of the library are pointers")]
// SAFETY: once made, a descriptor is only read.
unsafe impl Sync for Owned {}

impl Owned {
    fn new(
        destroy: unsafe extern "C" fn(Object) -> Status,
        create: impl FnOnce(*mut Object) -> Status,
    ) -> Result<Self> {
        let mut object = std::ptr::null_mut();
        checked("making a descriptor", create(&mut object))?;
        Ok(Self { object, destroy })
    }
}

#[expect(unsafe_code, reason = "a call of the library")]
impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: made by the function's counterpart, destroyed once. A failure here has no one to tell.
        let _ = unsafe { (self.destroy)(self.object) };
    }
}

#[expect(unsafe_code, reason = "calls of the library")]
fn layout(api: &Api, matrix: &Matrix) -> Result<Owned> {
    Owned::new(api.layout_destroy, |out| {
        // SAFETY: writes one object.
        unsafe { (api.layout_create)(out, matrix.dtype, matrix.rows, matrix.cols, matrix.step) }
    })
}

/// Bytes of an attribute's value, as setters take them.
fn value<T>(value: &T) -> (*const c_void, usize) {
    (std::ptr::from_ref(value).cast(), size_of::<T>())
}

/// The first algorithm of a problem that the library's heuristic names, and all that a call of it takes.
pub(super) struct Plan {
    operation: Owned,
    a: Owned,
    b: Owned,
    d: Owned,
    algo: ffi::Algo,
}

#[expect(unsafe_code, reason = "calls of the library")]
impl Plan {
    /// Asks the library; `None` if it has no algorithm. Touches nothing on the device.
    ///
    /// # Errors
    /// What the library answers.
    pub(super) fn new(api: &Api, handle: Object, problem: &Problem) -> Result<Option<Self>> {
        let operation = Owned::new(api.desc_destroy, |out| {
            // SAFETY: writes one object.
            unsafe { (api.desc_create)(out, ffi::COMPUTE_F32, ffi::DataType::F32) }
        })?;
        if problem.transpose_a {
            let (at, bytes) = value(&ffi::TRANSPOSE);
            // SAFETY: the attribute is an `i32`, read during the call.
            let status =
                unsafe { (api.desc_set)(operation.object, ffi::DescAttribute::TransposeA, at, bytes) };
            checked("setting the transposition", status)?;
        }
        let (a, b, d) = (layout(api, &problem.a)?, layout(api, &problem.b)?, layout(api, &problem.d)?);
        let preference = preference(api, problem)?;
        let (mut candidate, mut count) = (Candidate::default(), 0);
        // SAFETY: the objects are alive; at most one candidate is written.
        let status = unsafe {
            let (desc, d) = (operation.object, d.object);
            (api.heuristic)(
                handle,
                desc,
                a.object,
                b.object,
                d,
                d,
                preference.object,
                1,
                &mut candidate,
                &mut count,
            )
        };
        if ffi::REFUSED.contains(&status) {
            return Ok(None);
        }
        checked("choosing an algorithm", status)?;
        let is_usable = count > 0 && candidate.state == 0 && candidate.workspace <= WORKSPACE;
        Ok(is_usable.then_some(Self { operation, a, b, d, algo: candidate.algo }))
    }

    /// Queues the product; false if the library refuses it, having queued nothing.
    ///
    /// # Errors
    /// What the library answers.
    ///
    /// # Safety
    /// `api` and `handle` are those the plan was made with; `gemm` has the plan's problem; its operands are device memory of that extent, `workspace` of [`WORKSPACE`]
    /// bytes that only work of this stream uses; all of it, and the handle, of the current context.
    pub(super) unsafe fn run(
        &self,
        api: &Api,
        handle: Object,
        stream: CUstream,
        workspace: u64,
        gemm: &Gemm,
    ) -> Result<bool> {
        let (alpha, beta) = (1.0f32, if gemm.accumulate { 1.0f32 } else { 0.0 });
        let at = |address: u64| address as *mut c_void;
        let (a, b, d) = (at(gemm.w.address), at(gemm.x.address), at(gemm.out.address));
        // SAFETY: the caller's promise; the scalars are read during the call.
        let status = unsafe {
            (api.matmul)(
                handle,
                self.operation.object,
                value(&alpha).0,
                a,
                self.a.object,
                b,
                self.b.object,
                value(&beta).0,
                d,
                self.d.object,
                d,
                self.d.object,
                &self.algo,
                at(workspace),
                WORKSPACE,
                stream,
            )
        };
        if ffi::REFUSED.contains(&status) {
            return Ok(false);
        }
        checked("matmul", status).map(|()| true)
    }
}

/// What an algorithm may do: a bounded workspace, sums in f32 only, no wider loads than the addresses allow.
#[expect(unsafe_code, reason = "calls of the library")]
fn preference(api: &Api, problem: &Problem) -> Result<Owned> {
    let preference = Owned::new(api.preference_destroy, |out| {
        // SAFETY: writes one object.
        unsafe { (api.preference_create)(out) }
    })?;
    let set = |attribute: P, (at, bytes): (*const c_void, usize)| {
        // SAFETY: the value has the attribute's type and is read during the call.
        checked("setting a preference", unsafe {
            (api.preference_set)(preference.object, attribute, at, bytes)
        })
    };
    set(P::MaxWorkspaceBytes, value(&(WORKSPACE as u64)))?;
    set(P::ReductionSchemes, value(&ffi::REDUCE_IN_F32))?;
    set(P::MinAlignmentA, value(&problem.a.alignment))?;
    set(P::MinAlignmentB, value(&problem.b.alignment))?;
    set(P::MinAlignmentC, value(&problem.d.alignment))?;
    set(P::MinAlignmentD, value(&problem.d.alignment))?;
    Ok(preference)
}
