//! What a code of the driver means for the user.

use backend_api::{Cause, Error};

use super::driver::{DriverError, code};
use crate::KernelSource;

fn unavailable(cause: Cause, reason: String) -> Error {
    Error::Unavailable { backend: "cuda".into(), cause, reason, searched: Vec::new() }
}

/// What the driver answered, as an error of the workspace.
pub(crate) fn failure(op: &str, error: DriverError) -> Error {
    classify(op, KernelSource::Embedded, error.0, &error.text())
}

/// What the driver answered where it was to load a kernel from this source.
pub(super) fn refusal(kernel: &str, source: KernelSource, error: DriverError) -> Error {
    classify(&format!("loading kernel `{kernel}`"), source, error.0, &error.text())
}

/// The error of a code: a dead context, a machine that cannot be used, or one failed call.
fn classify(op: &str, source: KernelSource, code: u32, text: &str) -> Error {
    let backend = || "cuda".to_owned();
    if is_sticky(code) {
        return Error::DeviceLost { backend: backend(), reason: format!("{op}: {text}") };
    }
    match unusable(code, source) {
        Some((cause, remedy)) => unavailable(cause, format!("{op}: {text}; {remedy}")),
        None => Error::Backend { backend: backend(), op: op.into(), reason: text.into() },
    }
}

/// Codes after which the context answers nothing else.
fn is_sticky(code: u32) -> bool {
    matches!(
        code,
        code::ILLEGAL_ADDRESS
            | code::LAUNCH_TIMEOUT
            | code::CONTEXT_IS_DESTROYED
            | code::ASSERT
            | code::HARDWARE_STACK_ERROR
            | code::ILLEGAL_INSTRUCTION
            | code::MISALIGNED_ADDRESS
            | code::INVALID_ADDRESS_SPACE
            | code::INVALID_PC
            | code::LAUNCH_FAILED
            | code::TENSOR_MEMORY_LEAK
            | code::ECC_UNCORRECTABLE
            | code::NVLINK_UNCORRECTABLE
            | code::CONTAINED
    )
}

/// What to do where the driver does not take kernels from this source.
fn other_kernels(source: KernelSource) -> &'static str {
    match source {
        KernelSource::Embedded => {
            "update the driver, or compile the kernels for this card with feature `nvrtc` and TORCHLESS_KERNELS=nvrtc"
        }
        KernelSource::Nvrtc => {
            "update the driver to one no older than NVRTC, or use the embedded kernels (TORCHLESS_KERNELS=embedded)"
        }
    }
}

/// Codes that say that driver, card and kernels do not fit each other, with what to do.
fn unusable(code: u32, source: KernelSource) -> Option<(Cause, &'static str)> {
    Some(match code {
        code::STUB_LIBRARY => (
            Cause::StubDriver,
            "a stub of the CUDA toolkit was opened; take its folder out of the library path",
        ),
        code::SYSTEM_DRIVER_MISMATCH => {
            (Cause::OldDriver, "driver and kernel module differ in version; restart the machine")
        }
        code::COMPAT_NOT_SUPPORTED_ON_DEVICE => (
            Cause::OldDriver,
            "the compatibility package of CUDA does not serve this card; update the driver and remove the package",
        ),
        code::NO_DEVICE => (Cause::NoDevice, "check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or use the CPU"),
        code::INVALID_DEVICE => (Cause::NoDevice, "choose a device that `torchless devices` lists"),
        code::DEVICE_UNAVAILABLE => {
            (Cause::NoDevice, "another process has the card for itself; stop it, or use another device")
        }
        code::SYSTEM_NOT_READY => {
            (Cause::DriverFailed, "start the services of the driver (nvidia-fabricmanager), then try again")
        }
        code::NO_BINARY_FOR_GPU | code::INVALID_IMAGE => (Cause::NoKernelImage, other_kernels(source)),
        code::UNSUPPORTED_PTX_VERSION => (Cause::PtxVersion, other_kernels(source)),
        code::INVALID_PTX => (Cause::InvalidPtx, other_kernels(source)),
        code::JIT_COMPILER_NOT_FOUND => (
            Cause::NoKernelImage,
            "the driver's compiler (libnvidia-ptxjitcompiler.so.1) is missing; install the driver completely",
        ),
        code::JIT_COMPILATION_DISABLED => {
            (Cause::NoKernelImage, "unset CUDA_DISABLE_PTX_JIT: the kernels are PTX")
        }
        _ => return None,
    })
}

/// Why a driver of interface `version` did not start.
pub(super) fn start_failure(code: u32, version: i32, searched: Vec<String>) -> Error {
    let (cause, remedy) = unusable(code, KernelSource::Embedded)
        .unwrap_or((Cause::DriverFailed, "check `nvidia-smi`, update the driver, or use the CPU"));
    let reason = match cause {
        Cause::NoDevice => format!("the driver shows no usable GPU; {remedy}"),
        _ => format!(
            "the driver (CUDA {}.{}) does not start and answers {}; {remedy}",
            version / 1000,
            version % 1000 / 10,
            DriverError(code).text()
        ),
    };
    Error::Unavailable { backend: "cuda".into(), cause, reason, searched }
}

/// The error of a device number that the machine does not have.
pub(super) fn no_such_device(ordinal: usize, count: usize) -> Error {
    let reason = match count {
        0 => {
            "the driver shows no GPU; check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or use the CPU".to_owned()
        }
        _ => format!("there is no GPU number {ordinal}; this machine has {count}, counted from 0"),
    };
    unavailable(Cause::NoDevice, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause_of(code: u32) -> Option<Cause> {
        match classify("loading", KernelSource::Embedded, code, "text of the driver") {
            Error::Unavailable { cause, reason, .. } => {
                assert!(reason.starts_with("loading: text of the driver; "), "{reason}");
                assert!(reason.len() > 50, "{code} has no remedy: {reason}");
                Some(cause)
            }
            _ => None,
        }
    }

    #[test]
    fn each_unusable_machine_has_its_cause() {
        for (code, cause) in [
            (34, Cause::StubDriver),
            (803, Cause::OldDriver),
            (804, Cause::OldDriver),
            (100, Cause::NoDevice),
            (101, Cause::NoDevice),
            (46, Cause::NoDevice),
            (802, Cause::DriverFailed),
            (209, Cause::NoKernelImage),
            (200, Cause::NoKernelImage),
            (221, Cause::NoKernelImage),
            (223, Cause::NoKernelImage),
            (222, Cause::PtxVersion),
            (218, Cause::InvalidPtx),
        ] {
            assert_eq!(cause_of(code), Some(cause), "{code}");
        }
        assert_eq!(cause_of(1), None);
        assert_eq!(cause_of(701), None);
    }

    #[test]
    fn what_the_driver_does_not_take_from_one_source_may_come_from_the_other() {
        for code in
            [code::NO_BINARY_FOR_GPU, code::INVALID_IMAGE, code::UNSUPPORTED_PTX_VERSION, code::INVALID_PTX]
        {
            let text = |source| refusal("add", source, DriverError(code)).to_string();
            let (embedded, compiled) = (text(KernelSource::Embedded), text(KernelSource::Nvrtc));
            for text in [&embedded, &compiled] {
                assert!(
                    text.contains("loading kernel `add`") && text.contains("update the driver"),
                    "{text}"
                );
            }
            assert!(embedded.contains("TORCHLESS_KERNELS=nvrtc"), "{embedded}");
            assert!(compiled.contains("TORCHLESS_KERNELS=embedded"), "{compiled}");
        }
    }

    #[test]
    fn what_kills_the_context_is_a_lost_device_and_nothing_else_is() {
        let lost =
            |code| matches!(classify("matmul", KernelSource::Embedded, code, ""), Error::DeviceLost { .. });
        for code in [700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 214, 220, 226] {
            assert!(lost(code), "{code}");
        }
        for code in [1, 2, 209, 218, 222, 400, 500, 600, 701, 720, 900, 901, 907, 999] {
            assert!(!lost(code), "{code}");
        }
    }

    #[test]
    fn a_driver_that_does_not_start_says_what_it_answered() {
        let text = start_failure(999, 12_040, vec!["libcuda.so.1".into()]).to_string();
        assert!(
            text.contains("CUDA 12.4") && text.contains("999") && text.contains("libcuda.so.1"),
            "{text}"
        );
        let error = start_failure(100, 13_000, Vec::new());
        assert!(matches!(error, Error::Unavailable { cause: Cause::NoDevice, .. }), "{error}");
        assert!(no_such_device(3, 2).to_string().contains("has 2"));
        assert!(no_such_device(0, 0).to_string().contains("nvidia-smi"));
    }
}
