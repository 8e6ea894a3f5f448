//! One backend in many hands, and at its limits.

use std::thread;

use backend_api::{DType, Error, HostTensor, KernelBackend};

use crate::CudaBackend;

/// `[rows, cols]` of small whole numbers, so that every product and sum is exact.
fn matrix(rows: usize, cols: usize, seed: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| ((i * 7 + seed * 13) % 11) as f32 - 5.0).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn many_threads_get_right_results_from_one_backend() {
    let b = CudaBackend::builder().poison(true).build().unwrap();
    let (m, n, k) = (9, 33, 65);
    let work = |seed: usize| {
        for round in 0..20 {
            let (x, w) = (matrix(m, k, seed + round), matrix(n, k, 3 * seed + round));
            let upload = |values: &[f32], shape: &[usize]| {
                let bytes = bytes(values);
                let fill = |offset: usize, out: &mut [u8]| {
                    out.copy_from_slice(&bytes[offset..offset + out.len()]);
                    Ok(())
                };
                b.upload(shape, DType::F32, &fill).unwrap()
            };
            let out = b.matmul(&upload(&x, &[m, k]), &upload(&w, &[n, k])).unwrap();
            let out = b.add(&out, &out).unwrap();
            let want: Vec<f32> = (0..m * n)
                .map(|i| 2.0 * (0..k).map(|c| x[i / n * k + c] * w[i % n * k + c]).sum::<f32>())
                .collect();
            assert!(b.download(&out).unwrap() == bytes(&want), "thread {seed}, round {round}");
        }
    };
    thread::scope(|scope| {
        for seed in 0..24 {
            scope.spawn(move || work(seed));
        }
    });
    let host: HostTensor = b.to_host(&b.to_device_1d(&vec![1.0, 2.0].into()).unwrap()).unwrap();
    assert_eq!(host.shape(), [2]);
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn exhaustion_leaves_the_backend_usable() {
    let b = CudaBackend::new().unwrap();
    let total = b.info().total_memory.unwrap() as usize;
    let kept = b.alloc(&[1 << 20], DType::F32).unwrap();
    for elements in [total / 4 + 1, 1 << 44] {
        let error = b.alloc(&[elements], DType::F32).unwrap_err();
        match error {
            Error::OutOfMemory { requested, free } => {
                assert_eq!(requested, 4 * elements as u64);
                assert!(free > 0 && free <= total as u64, "{free} of {total}");
            }
            other => panic!("{other}"),
        }
        let mut x = b.alloc(&[1000], DType::F32).unwrap();
        b.fill_random(&mut x, 1, 1.0).unwrap();
        assert!(b.download(&x).unwrap().iter().any(|byte| *byte != 0));
    }
    assert_eq!(kept.bytes(), 4 << 20);
    let before = b.memory().high_water;
    drop(kept);
    b.reset_high_water();
    assert!(b.memory().high_water < before);
    assert_eq!(b.memory().high_water, b.memory().in_use);
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn marks_measure_the_devices_time() {
    let b = CudaBackend::new().unwrap();
    let mut x = b.alloc(&[1 << 28], DType::F32).unwrap();
    b.fill_random(&mut x, 1, 1.0).unwrap();
    b.synchronize().unwrap();
    let start = std::time::Instant::now();
    let from = b.record().unwrap();
    b.fill_random(&mut x, 2, 1.0).unwrap();
    let to = b.record().unwrap();
    let elapsed = b.elapsed(&from, &to).unwrap();
    let wall = start.elapsed().as_secs_f64() * 1e3;
    assert!(elapsed > 0.1 && elapsed <= wall, "{elapsed} of {wall} ms");
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_target_of_kernels_can_be_lowered_and_not_raised() {
    let b = CudaBackend::builder().kernel_target((5, 0)).build().unwrap();
    assert_eq!(b.inner.device.target.capability, (5, 0));
    assert!(b.info().features.contains(&"kernels for 5.0".to_owned()));
    let error = CudaBackend::builder().kernel_target((99, 0)).build().unwrap_err();
    assert!(matches!(error, Error::Argument { name: "kernel_target", .. }), "{error}");
    let error = CudaBackend::with_device(1000).unwrap_err();
    assert!(error.to_string().contains("no GPU number 1000"), "{error}");
}
