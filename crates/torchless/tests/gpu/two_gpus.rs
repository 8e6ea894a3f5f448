//! What takes two GPUs.

use torchless::{DType, DeviceTensor, Error, KernelBackend, init_backend};

use crate::common::{cpu, pattern};
use crate::make;

/// Between two cards, both ways, and from each to the CPU.
#[test]
#[ignore = "needs two NVIDIA GPUs"]
fn tensors_move_between_gpus() {
    let gpus = torchless::devices().into_iter().filter(|d| d.backend == "cuda" && d.is_usable());
    let gpus: Vec<_> = gpus.map(|d| init_backend(d.preference).unwrap()).collect();
    let [first, second, ..] = &gpus[..] else {
        panic!("this takes two GPUs, and found {}; leave it out with `--skip two_gpus`", gpus.len());
    };
    assert_eq!(
        [first, second].map(|b| (b.device().kind(), b.device().ordinal())),
        [("cuda", 0), ("cuda", 1)]
    );
    let cpu = cpu();
    for dtype in DType::FLOATS {
        // The last one takes several parts of the staging, and the parts end at odd places.
        for shape in [&[0, 5][..], &[1], &[3, 257], &[4099, 4097]] {
            let bytes = pattern(shape, dtype);
            for (from, to) in [(first, second), (second, first)] {
                let here = make(from, shape, dtype, &bytes);
                let there = here.to_device(from, to).unwrap();
                assert_eq!((there.shape(), there.dtype(), there.device()), (shape, dtype, to.device()));
                let home = there.to_device(to, &cpu).unwrap();
                for (tensor, on) in [(&here, from), (&there, to), (&home, &cpu)] {
                    assert!(on.download(tensor).unwrap() == bytes, "{dtype} {shape:?} on {}", on.device());
                }
                // Work on the new card waits for what was moved, and the old card knows nothing of it.
                let moved = to.add(&there, &there).unwrap();
                assert!(
                    to.download(&moved).unwrap() == from.download(&from.add(&here, &here).unwrap()).unwrap()
                );
                assert!(matches!(from.add(&there, &there), Err(Error::Device { .. })));
            }
        }
    }
}
