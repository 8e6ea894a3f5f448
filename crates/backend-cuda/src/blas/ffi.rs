//! The part of cuBLASLt's C interface that is used, as CUDA 12.0 has it; the same in 13.

use std::ffi::c_void;

use cudarc::driver::sys::CUstream;
use libloading::Library;

/// A handle, descriptor or layout.
pub(super) type Object = *mut c_void;

/// What a call answers; 0 is success.
pub(super) type Status = i32;

/// Answers that mean "not with this problem".
pub(super) const REFUSED: [Status; 2] = [7, 15];

/// The name of an answer.
pub(super) fn name(status: Status) -> &'static str {
    match status {
        0 => "CUBLAS_STATUS_SUCCESS",
        1 => "CUBLAS_STATUS_NOT_INITIALIZED",
        3 => "CUBLAS_STATUS_ALLOC_FAILED",
        7 => "CUBLAS_STATUS_INVALID_VALUE",
        8 => "CUBLAS_STATUS_ARCH_MISMATCH",
        11 => "CUBLAS_STATUS_MAPPING_ERROR",
        13 => "CUBLAS_STATUS_EXECUTION_FAILED",
        14 => "CUBLAS_STATUS_INTERNAL_ERROR",
        15 => "CUBLAS_STATUS_NOT_SUPPORTED",
        16 => "CUBLAS_STATUS_LICENSE_ERROR",
        _ => "a status of no known name",
    }
}

/// `cudaDataType`.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum DataType {
    F32 = 0,
    F16 = 2,
    Bf16 = 14,
}

/// `CUBLAS_COMPUTE_32F`: products and sums in f32; no TF32.
pub(super) const COMPUTE_F32: i32 = 68;

/// `CUBLAS_OP_T`; not transposing is the default.
pub(super) const TRANSPOSE: i32 = 1;

/// `CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE`: pieces of a split sum are kept and added in f32.
pub(super) const REDUCE_IN_F32: u32 = 2;

/// `cublasLtMatmulDescAttributes_t`.
#[repr(i32)]
#[derive(Clone, Copy)]
pub(super) enum DescAttribute {
    TransposeA = 3,
}

/// `cublasLtMatmulPreferenceAttributes_t`.
#[repr(i32)]
#[derive(Clone, Copy)]
pub(super) enum PreferenceAttribute {
    MaxWorkspaceBytes = 1,
    ReductionSchemes = 3,
    MinAlignmentA = 5,
    MinAlignmentB = 6,
    MinAlignmentC = 7,
    MinAlignmentD = 8,
}

/// `cublasLtMatmulAlgo_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Algo([u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Candidate {
    pub(super) algo: Algo,
    pub(super) workspace: usize,
    pub(super) state: Status,
    pub(super) waves: f32,
    reserved: [i32; 4],
}

macro_rules! api {
    ($($field:ident = $symbol:literal: fn($($arg:ty),*) -> $result:ty;)*) => {
        /// The functions of an opened library.
        #[derive(Clone, Copy, Debug)]
        pub(super) struct Api {
            $(pub(super) $field: unsafe extern "C" fn($($arg),*) -> $result,)*
        }

        impl Api {
            /// Looks the functions up; the library must stay open for as long as they are used.
            ///
            /// # Errors
            /// A function that the library does not have.
            pub(super) fn of(library: &Library) -> Result<Self, libloading::Error> {
                #[expect(unsafe_code, reason = "functions of a C library")]
                // SAFETY: the signatures are those of cublasLt.h of CUDA 12.0.
                unsafe {
                    Ok(Self { $($field: *library.get($symbol)?,)* })
                }
            }
        }
    };
}

api! {
    version = "cublasLtGetVersion": fn() -> usize;
    create = "cublasLtCreate": fn(*mut Object) -> Status;
    destroy = "cublasLtDestroy": fn(Object) -> Status;
    desc_create = "cublasLtMatmulDescCreate": fn(*mut Object, i32, DataType) -> Status;
    desc_set = "cublasLtMatmulDescSetAttribute": fn(Object, DescAttribute, *const c_void, usize) -> Status;
    desc_destroy = "cublasLtMatmulDescDestroy": fn(Object) -> Status;
    layout_create = "cublasLtMatrixLayoutCreate": fn(*mut Object, DataType, u64, u64, i64) -> Status;
    layout_destroy = "cublasLtMatrixLayoutDestroy": fn(Object) -> Status;
    preference_create = "cublasLtMatmulPreferenceCreate": fn(*mut Object) -> Status;
    preference_set = "cublasLtMatmulPreferenceSetAttribute":
        fn(Object, PreferenceAttribute, *const c_void, usize) -> Status;
    preference_destroy = "cublasLtMatmulPreferenceDestroy": fn(Object) -> Status;
    heuristic = "cublasLtMatmulAlgoGetHeuristic":
        fn(Object, Object, Object, Object, Object, Object, Object, i32, *mut Candidate, *mut i32) -> Status;
    matmul = "cublasLtMatmul":
        fn(
            Object,
            Object,
            *const c_void,
            *const c_void,
            Object,
            *const c_void,
            Object,
            *const c_void,
            *const c_void,
            Object,
            *mut c_void,
            Object,
            *const Algo,
            *mut c_void,
            usize,
            CUstream
        ) -> Status;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!((size_of::<Algo>(), align_of::<Algo>()), (64, 8));
        assert_eq!(size_of::<Candidate>(), 64 + 8 + 4 + 4 + 16);
        assert_eq!(std::mem::offset_of!(Candidate, waves), 76);
    }
}
