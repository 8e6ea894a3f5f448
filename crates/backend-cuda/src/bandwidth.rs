//! What the memory of the device can do.
#![expect(unsafe_code, reason = "a launch")]

use backend_api::{DType, Error, KernelBackend, Result};

use crate::device::DeviceMemory;
use crate::kernels::read_probe::{Args, grid};
use crate::launch::{In, Out};
use crate::ops::launched;
use crate::pool::Pool;
use crate::{CudaBackend, CudaTensor, graph};

/// Most bytes that a probe reads or writes: many times what any cache holds.
const MOST: u64 = 8 << 30;

/// How often a probe runs after the first time; the fastest counts.
const RUNS: usize = 8;

/// Bytes per second of a kernel that only reads, over up to 8 GiB.
///
/// # Errors
/// [`Error::OutOfMemory`] where no memory is free.
pub(crate) fn read(b: &CudaBackend) -> Result<f64> {
    let pool = pool(b)?;
    let x = random(b, &pool, room(b)? / 2)?;
    let sums = CudaTensor::new(b, &pool, &[grid(pieces(&x)) as usize], DType::U32)?;
    let seconds = fastest(b, &mut || sum(b, &x, &sums))?;
    Ok(x.bytes() as f64 / seconds)
}

/// Bytes read and written per second of a copy within the device, over up to 4 GiB each.
///
/// # Errors
/// [`Error::OutOfMemory`] where no memory is free.
pub(crate) fn copy(b: &CudaBackend) -> Result<f64> {
    let pool = pool(b)?;
    let x = random(b, &pool, room(b)? / 4)?;
    let out = CudaTensor::new(b, &pool, &x.shape, x.dtype)?;
    let mut copy = || b.inner.device.copy(out.block.address(), x.block.address(), x.bytes());
    Ok(2.0 * x.bytes() as f64 / fastest(b, &mut copy)?)
}

/// Memory of a probe's own, which is no part of the backend's high water and goes back at the end; the backend leaves it what
/// it does not use.
fn pool(b: &CudaBackend) -> Result<Pool<DeviceMemory>> {
    graph::refuse(&b.inner.device, "read_bandwidth")?;
    b.trim();
    Ok(Pool::new(DeviceMemory(b.inner.device.clone()), false))
}

/// Seconds of the fastest of several runs that are queued one behind the other, so that the host delays none.
fn fastest(b: &CudaBackend, run: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let mut events = vec![b.record()?];
    for _ in 0..RUNS {
        run()?;
        events.push(b.record()?);
    }
    let mut best = f64::INFINITY;
    for (from, to) in events.iter().zip(&events[1..]) {
        best = best.min(b.elapsed(from, to)? / 1e3);
    }
    Ok(best)
}

/// Bytes that probes may take: half of what is free, as far as they need.
fn room(b: &CudaBackend) -> Result<u64> {
    Ok((b.inner.device.free()? / 2).min(2 * MOST))
}

/// About as many bytes as asked for, written.
fn random(b: &CudaBackend, pool: &Pool<DeviceMemory>, bytes: u64) -> Result<CudaTensor> {
    let free = b.inner.device.free()?;
    let words = (bytes / 4).next_multiple_of(4);
    let shape = usize::try_from(words).map_err(|_| Error::OutOfMemory { requested: bytes, free })?;
    if bytes == 0 {
        return Err(Error::OutOfMemory { requested: MOST, free });
    }
    let mut x = CudaTensor::new(b, pool, &[shape], DType::F32)?;
    b.fill_random(&mut x, 1, 1.0)?;
    Ok(x)
}

/// Pieces of 16 bytes.
fn pieces(x: &CudaTensor) -> u64 {
    (x.bytes() / 16) as u64
}

/// Reads a tensor of whole pieces; `sums` has a word for each block.
fn sum(b: &CudaBackend, x: &CudaTensor, sums: &CudaTensor) -> Result<()> {
    let n = pieces(x);
    let out = Out::new(sums.block.address(), sums.bytes() / 4);
    let args = Args { out, x: In::new(x.block.address(), x.bytes() / 4), n };
    let launch = b.launch("read_probe", DType::F32, DType::F32, grid(n))?;
    // SAFETY: `x` holds `n` pieces, on a boundary of the pool's, which are of 256 bytes and more; `sums` has a word per block.
    launched("read_probe", unsafe { args.launch(launch) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use backend_api::HostTensor;

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn a_probe_leaves_no_mark_in_the_pool() {
        let b = CudaBackend::new().unwrap();
        let _held = b.alloc(&[1 << 20], DType::F32).unwrap();
        let seen = || (b.memory().in_use, b.memory().high_water, b.pool_stats().reserved);
        let before = seen();
        read(&b).unwrap();
        copy(&b).unwrap();
        assert_eq!(seen(), before);
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn the_probe_reads_every_word() {
        let b = CudaBackend::new().unwrap();
        for n in [4usize, 2044, 4 * 4096, 4 * 4096 + 4, 12_345_676] {
            let words: Vec<u32> = (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
            let want = words.iter().fold(0, |sum: u32, word| sum.wrapping_add(*word));
            let x = b.to_device(&HostTensor::from_vec(&[n], words).unwrap()).unwrap();
            let sums = b.alloc(&[grid(pieces(&x)) as usize], DType::U32).unwrap();
            sum(&b, &x, &sums).unwrap();
            let HostTensor::U32(sums) = b.to_host(&sums).unwrap() else { panic!("u32") };
            assert_eq!(sums.iter().fold(0, |sum: u32, word| sum.wrapping_add(*word)), want, "{n}");
        }
    }
}
