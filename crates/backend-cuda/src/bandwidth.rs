//! What the memory of the device can do.
#![expect(unsafe_code, reason = "a launch")]

use backend_api::{DType, Error, KernelBackend, Result};

use crate::kernels::read_probe::{Args, grid};
use crate::launch::{In, Out};
use crate::ops::launched;
use crate::{CudaBackend, CudaTensor};

/// Most bytes that a probe reads or writes: many times what any cache holds.
const MOST: u64 = 8 << 30;

/// A probe runs this often; the fastest counts.
const RUNS: usize = 5;

/// Bytes per second of a kernel that only reads, over up to 8 GiB.
///
/// # Errors
/// [`Error::OutOfMemory`] where no memory is free.
pub(crate) fn read(b: &CudaBackend) -> Result<f64> {
    let x = random(b, room(b)? / 2)?;
    let mut best = 0.0f64;
    for _ in 0..RUNS {
        let from = b.record()?;
        let sums = sums(b, &x)?;
        let to = b.record()?;
        best = best.max(x.bytes() as f64 / seconds(b.elapsed(&from, &to)?));
        drop(sums);
    }
    drop(x);
    b.trim();
    Ok(best)
}

/// Bytes read and written per second of a copy within the device, over up to 4 GiB each.
///
/// # Errors
/// [`Error::OutOfMemory`] where no memory is free.
pub(crate) fn copy(b: &CudaBackend) -> Result<f64> {
    let x = random(b, room(b)? / 4)?;
    let out = b.alloc(&x.shape, x.dtype)?;
    let mut best = 0.0f64;
    for _ in 0..RUNS {
        let from = b.record()?;
        b.inner.device.copy(out.block.address(), x.block.address(), x.bytes())?;
        let to = b.record()?;
        best = best.max(2.0 * x.bytes() as f64 / seconds(b.elapsed(&from, &to)?));
    }
    drop((x, out));
    b.trim();
    Ok(best)
}

/// Bytes that probes may take: half of what is free, as far as they need.
fn room(b: &CudaBackend) -> Result<u64> {
    Ok((b.inner.device.free()? / 2).min(2 * MOST))
}

/// About as many bytes as asked for, written.
fn random(b: &CudaBackend, bytes: u64) -> Result<CudaTensor> {
    let free = b.inner.device.free()?;
    let words = (bytes / 4).next_multiple_of(4);
    let shape = usize::try_from(words).map_err(|_| Error::OutOfMemory { requested: bytes, free })?;
    if bytes == 0 {
        return Err(Error::OutOfMemory { requested: MOST, free });
    }
    let mut x = b.alloc(&[shape], DType::F32)?;
    b.fill_random(&mut x, 1, 1.0)?;
    Ok(x)
}

fn seconds(milliseconds: f64) -> f64 {
    milliseconds / 1e3
}

/// Reads a tensor of whole pieces of 16 bytes: a sum for each block.
fn sums(b: &CudaBackend, x: &CudaTensor) -> Result<CudaTensor> {
    let n = (x.bytes() / 16) as u64;
    let blocks = grid(n) as usize;
    let sums = b.alloc(&[blocks], DType::U32)?;
    let out = Out::new(sums.block.address(), blocks);
    let args = Args { out, x: In::new(x.block.address(), x.bytes() / 4), n };
    let launch = b.launch("read_probe", DType::F32, DType::F32, grid(n))?;
    // SAFETY: `x` holds `n` pieces, on a boundary of the pool's, which are of 256 bytes and more; `sums` has a word per block.
    launched("read_probe", unsafe { args.launch(launch) })?;
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use backend_api::HostTensor;

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn the_probe_reads_every_word() {
        let b = CudaBackend::new().unwrap();
        for n in [4usize, 2044, 4 * 4096, 4 * 4096 + 4, 12_345_676] {
            let words: Vec<u32> = (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
            let want = words.iter().fold(0, |sum: u32, word| sum.wrapping_add(*word));
            let x = b.to_device(&HostTensor::from_vec(&[n], words).unwrap()).unwrap();
            let HostTensor::U32(sums) = b.to_host(&sums(&b, &x).unwrap()).unwrap() else { panic!("u32") };
            assert_eq!(sums.iter().fold(0, |sum: u32, word| sum.wrapping_add(*word)), want, "{n}");
        }
    }
}
