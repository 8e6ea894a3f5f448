//! After an error that kills the context.

use std::time::{Duration, Instant};

use backend_api::{Cause, DType, Error, KernelBackend, Result};

use super::child;
use crate::launch::Launch;
use crate::{CudaBackend, KernelSource};

const STORE_TO_NOWHERE: &str = ".version 6.0\n.target sm_50\n.address_size 64\n.visible .entry die() {\n\
    .reg .b64 %a; .reg .b32 %v; mov.u64 %a, 64; mov.u32 %v, 1; st.global.u32 [%a], %v; ret;\n}\n";

const TRAP: &str = ".version 6.0\n.target sm_50\n.address_size 64\n.visible .entry die() {\ntrap;\n}\n";

/// Runs a kernel that kills the context.
#[expect(unsafe_code, reason = "a launch")]
fn kill(b: &CudaBackend, ptx: &str) -> Result<()> {
    let device = &*b.inner.device;
    let function =
        device.function(device.load("die", KernelSource::Embedded, ptx.as_bytes().to_vec())?, 0)?.handle;
    let launch = Launch {
        device,
        function,
        stream: device.stream,
        grid: 1,
        cluster: 1,
        shared: None,
        awaits: false,
        overlaps: false,
        together: false,
    };
    // SAFETY: the kernel has no parameters and touches no memory that is anyone's.
    unsafe { launch.run(1, 0, &mut []) }.map_err(|e| device.failed("die", e))
}

fn lost<T>(what: &str, call: impl FnOnce() -> Result<T>) {
    let start = Instant::now();
    let error = call().err().unwrap_or_else(|| panic!("{what} works on a dead context"));
    assert!(matches!(error, Error::DeviceLost { .. }), "{what}: {error}");
    assert!(start.elapsed() < Duration::from_millis(50), "{what} took {:?}", start.elapsed());
}

fn die_and_go_on(ptx: &str) {
    let b = CudaBackend::new().unwrap();
    let mut x = b.alloc(&[1000], DType::F32).unwrap();
    drop(b.alloc(&[1000], DType::F32).unwrap());
    b.write(&mut x, 0, &[0; 4000]).unwrap();
    let mark = b.record().unwrap();
    kill(&b, ptx).unwrap();
    let error = b.synchronize().unwrap_err();
    assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
    lost("synchronize", || b.synchronize());
    lost("alloc", || b.alloc(&[1000], DType::F32));
    lost("write", || b.write(&mut x, 0, &[0; 4000]));
    lost("read", || b.download(&x));
    lost("upload", || b.upload(&[10], DType::F32, &|_, _| Ok(())));
    lost("an operation", || b.fill_random(&mut x, 1, 1.0));
    lost("prepare", || b.prepare(&conformance::mistral(DType::BF16)));
    lost("record", || b.record());
    assert_eq!(b.memory().free, None);
    b.trim();
    drop((mark, x, b));
    // The driver gives a process no other context; saying so is what matters.
    match CudaBackend::new().map(drop) {
        Ok(()) | Err(Error::DeviceLost { .. }) => {}
        Err(other) => panic!("{other}"),
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn an_illegal_address_loses_the_device() {
    if child::is_child() {
        return die_and_go_on(STORE_TO_NOWHERE);
    }
    child::run("device::tests::lost::an_illegal_address_loses_the_device", &[]);
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_trap_loses_the_device() {
    if child::is_child() {
        return die_and_go_on(TRAP);
    }
    child::run("device::tests::lost::a_trap_loses_the_device", &[]);
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn without_a_visible_device_there_is_a_reason() {
    if !child::is_child() {
        let hidden = [("CUDA_VISIBLE_DEVICES", "")];
        child::run("device::tests::lost::without_a_visible_device_there_is_a_reason", &hidden);
        return;
    }
    assert!(!CudaBackend::is_available());
    let error = CudaBackend::new().unwrap_err();
    assert!(matches!(error, Error::Unavailable { cause: Cause::NoDevice, .. }), "{error}");
    assert!(error.to_string().contains("CUDA_VISIBLE_DEVICES"), "{error}");
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
#[expect(unsafe_code, reason = "a call of the driver")]
fn asking_for_availability_makes_no_context() {
    type State = unsafe extern "system" fn(i32, *mut u32, *mut i32) -> u32;
    if !child::is_child() {
        child::run("device::tests::lost::asking_for_availability_makes_no_context", &[]);
        return;
    }
    let active = || {
        let (mut flags, mut active) = (0, 0);
        let library = crate::device::probe::opened().unwrap();
        // SAFETY: the type is the function's in `cuda.h`; writes two integers.
        let code = unsafe {
            library.get::<State>("cuDevicePrimaryCtxGetState").unwrap()(0, &raw mut flags, &raw mut active)
        };
        assert_eq!(code, 0);
        active
    };
    assert!(CudaBackend::is_available());
    assert_eq!(active(), 0);
    let (a, b) = (CudaBackend::new().unwrap(), CudaBackend::new().unwrap());
    drop(a);
    assert_eq!(active(), 1);
    b.synchronize().unwrap();
    drop(b);
    assert_eq!(active(), 0, "every retained context is released once");
}
