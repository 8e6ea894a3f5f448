//! Copies through pinned memory: right, and as fast as the bus.

use std::time::Instant;

use backend_api::{DType, KernelBackend};

use crate::CudaBackend;
use crate::device::staging::PIECE;

fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn bytes_come_back_as_they_went() {
    let b = CudaBackend::builder().poison(true).build().unwrap();
    for bytes in [4, 4096, PIECE - 4, PIECE, PIECE + 4, 3 * PIECE + 20, 40 * PIECE + 12] {
        let data = pattern(bytes, bytes as u64);
        let fill = |offset: usize, out: &mut [u8]| {
            out.copy_from_slice(&data[offset..offset + out.len()]);
            Ok(())
        };
        let mut x = b.upload(&[bytes / 4], DType::F32, &fill).unwrap();
        assert!(b.download(&x).unwrap() == data, "{bytes} bytes up and down");
        // Many small writes in a row, each over part of the one before.
        let mut want = data.clone();
        for i in 0..100usize {
            let (offset, value) = ((i * 7) % (bytes - 3), i as u8);
            b.write(&mut x, offset, &[value; 3]).unwrap();
            want[offset..offset + 3].fill(value);
        }
        let half = bytes / 2;
        let other = pattern(bytes - half, 99);
        b.write(&mut x, half, &other).unwrap();
        want[half..].copy_from_slice(&other);
        assert!(b.download(&x).unwrap() == want, "{bytes} bytes written over");
        let mut middle = vec![0; bytes / 3];
        b.read(&x, bytes / 4, &mut middle).unwrap();
        assert!(middle[..] == want[bytes / 4..bytes / 4 + middle.len()], "{bytes} bytes from the middle");
    }
}

/// Speed of both directions beside that of one copy of pinned memory, which is the bus's.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn transfers_keep_up_with_the_bus() {
    let bytes = 4usize << 30;
    let b = CudaBackend::new().unwrap();
    let data = pattern(64 << 20, 5);
    let fill = |offset: usize, out: &mut [u8]| {
        let start = offset % data.len();
        out.copy_from_slice(&data[start..start + out.len()]);
        Ok(())
    };
    let rate = |start: Instant| bytes as f64 / start.elapsed().as_secs_f64() / 1e9;
    let mut best = (0.0f64, 0.0f64, 0.0f64);
    let mut host = vec![1u8; bytes];
    for _ in 0..3 {
        let start = Instant::now();
        let x = b.upload(&[bytes / 2], DType::BF16, &fill).unwrap();
        b.synchronize().unwrap();
        best.0 = best.0.max(rate(start));
        let start = Instant::now();
        b.read(&x, 0, &mut host).unwrap();
        best.1 = best.1.max(rate(start));
        assert!(host[..1 << 20] == data[..1 << 20]);
        drop(x);
        let start = Instant::now();
        let nothing = |_: usize, _: &mut [u8]| Ok(());
        drop(b.upload(&[bytes / 2], DType::BF16, &nothing).unwrap());
        b.synchronize().unwrap();
        best.2 = best.2.max(rate(start));
    }
    let (up, down, bus) = best;
    println!("up {up:.1} GB/s, down {down:.1} GB/s, bus {bus:.1} GB/s");
    assert!(up > 0.6 * bus, "up {up:.1} of {bus:.1} GB/s");
    assert!(down > 0.3 * bus, "down {down:.1} of {bus:.1} GB/s");
}
