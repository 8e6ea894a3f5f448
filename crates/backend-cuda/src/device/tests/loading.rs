//! Loading of kernels: errors, signatures.

use backend_api::{Cause, DType, Error, KernelBackend};

use crate::CudaBackend;
use crate::KernelSource;
use crate::device::Device;
use crate::functions::{self, Functions};
use crate::kernels::archive::{self, Target};

fn refusal(device: &Device, ptx: &str) -> (Cause, String) {
    match device.load("k", KernelSource::Embedded, ptx.as_bytes().to_vec()).unwrap_err() {
        Error::Unavailable { cause, reason, .. } => (cause, reason),
        other => panic!("{other}"),
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn images_that_do_not_fit_give_typed_errors() {
    let b = CudaBackend::new().unwrap();
    let device = &*b.inner.device;
    let (cause, text) =
        refusal(device, ".version 6.0\n.target sm_50\n.address_size 64\n.visible .entry k() { nonsense; }\n");
    assert_eq!(cause, Cause::InvalidPtx, "{text}");
    assert!(text.contains("nonsense") && text.contains("its log"), "{text}");
    let (cause, text) =
        refusal(device, ".version 99.9\n.target sm_50\n.address_size 64\n.visible .entry k() { ret; }\n");
    assert_eq!(cause, Cause::PtxVersion, "{text}");
    let wrong = if device.target.card == (10, 0) { "sm_90a" } else { "sm_100a" };
    let (cause, text) = refusal(
        device,
        &format!(".version 8.6\n.target {wrong}\n.address_size 64\n.visible .entry k() {{ ret; }}\n"),
    );
    assert_eq!(cause, Cause::NoKernelImage, "{text}");
    let add = archive::ptx("add", DType::F32, DType::F32, Target::of((5, 0))).unwrap().into_bytes();
    let missing = device.load("other", KernelSource::Embedded, add);
    assert!(matches!(missing, Err(Error::Backend { .. })), "{missing:?}");
    b.alloc(&[10], DType::F32).and_then(|mut x| b.fill_random(&mut x, 1, 1.0)).unwrap();
    b.synchronize().unwrap();
}

/// The driver's view of every kernel is the declared one; loading compares them.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_variant_loads_with_the_parameters_that_rust_passes() {
    let b = CudaBackend::new().unwrap();
    let device = &*b.inner.device;
    let functions = Functions::new(KernelSource::Embedded);
    let mut loaded = 0;
    for scalar in DType::FLOATS {
        for weight in DType::FLOATS {
            let keys = functions::keys(scalar, weight, device.target);
            functions.preload(device, &keys).unwrap();
            for key in keys {
                let function = functions.get(device, key).unwrap();
                functions::check(key.0, |_| device.parameters(function, 100)).unwrap();
                loaded += 1;
            }
        }
    }
    assert!(loaded > 60, "{loaded}");
}
