//! Allocations, copies, fills and the counters of them.

use std::time::Instant;

use backend_api::ndarray::{Array2, array};
use backend_api::ops::Add;
use backend_api::{
    DType, DeviceTensor, Error, HostTensor, Io, KernelBackend, Mat, MatMut, Op, random, tensor_bytes,
};

use super::{part, refused};
use crate::Failure;
use crate::host::encode;
use crate::report::{Step, ensure};

/// Byte `i` of a test pattern.
fn pattern(i: usize) -> u8 {
    (i.wrapping_mul(0x9e37_79b9) >> 13) as u8
}

fn upload<B: KernelBackend>(b: &B, shape: &[usize], dtype: DType) -> Step<B::Tensor> {
    let tensor = b.upload(shape, dtype, &|offset, out| {
        out.iter_mut().enumerate().for_each(|(i, byte)| *byte = pattern(offset + i));
        Ok(())
    })?;
    ensure(tensor.shape() == shape && tensor.dtype() == dtype && tensor.device() == b.device(), || {
        format!("upload of {dtype} {shape:?} gave {} {:?}", tensor.dtype(), tensor.shape())
    })?;
    Ok(tensor)
}

fn holds_pattern<B: KernelBackend>(b: &B, tensor: &B::Tensor) -> Step {
    let bytes = b.download(tensor)?;
    let wrong = bytes.iter().enumerate().position(|(i, byte)| *byte != pattern(i));
    ensure(wrong.is_none(), || format!("{} {:?}: byte {wrong:?}", tensor.dtype(), tensor.shape()))
}

/// What is uploaded or written is what is read, in every type and shape, over more than one staging buffer.
///
/// # Errors
/// The first part that fails.
pub fn copies_round_trip<B: KernelBackend>(make: impl Fn() -> B) -> Result<(), Failure> {
    let b = make();
    part("copies_round_trip", || {
        let shapes: [&[usize]; 5] = [&[7], &[3, 5], &[2, 3, 4], &[], &[(33 << 20) + 1]];
        for dtype in DType::ALL {
            for shape in shapes {
                holds_pattern(&b, &upload(&b, shape, dtype)?)?;
            }
            let mut tensor = b.alloc(&[1001, 33], dtype)?;
            let size = tensor_bytes(&[1001, 33], dtype)?;
            let bytes: Vec<u8> = (0..size).map(pattern).collect();
            for range in [size - 5..size, 0..1, 1..4097, 4097..size - 5] {
                b.write(&mut tensor, range.start, &bytes[range])?;
            }
            holds_pattern(&b, &tensor)?;
            let mut middle = vec![0; 777];
            b.read(&tensor, 1235, &mut middle)?;
            ensure(middle == bytes[1235..1235 + 777], || format!("{dtype}: a part was read wrong"))?;
        }
        let host = HostTensor::new(array![[1u32, 2, 3], [4, 5, u32::MAX]].view());
        ensure(b.to_host(&b.to_device(&host)?)? == host, || "integers did not come back".into())?;
        let matrix = Array2::from_shape_fn((4, 3), |(r, c)| r as f32 - 0.1 * c as f32);
        let device = b.to_device_2d(&matrix)?;
        ensure(b.to_host_2d(&device)? == matrix, || "a matrix did not come back".into())?;
        refused("a matrix as a vector", b.to_host_1d(&device), |e| matches!(e, Error::Shape { .. }))?;
        let failing = |_: usize, _: &mut [u8]| Err(Error::Cancelled);
        let result = b.upload(&[5], DType::F32, &failing);
        refused("a fill that fails", result, |e| matches!(e, Error::Cancelled))?;
        holds_pattern(&b, &upload(&b, &[5], DType::F32)?)
    })
}

/// Tensors of no elements can be made, copied and operated on.
///
/// # Errors
/// The first part that fails.
pub fn zero_sizes<B: KernelBackend>(make: impl Fn() -> B) -> Result<(), Failure> {
    let b = make();
    part("zero_sizes", || {
        for dtype in DType::ALL {
            for shape in [&[0][..], &[0, 5], &[5, 0], &[2, 0, 3]] {
                let mut tensor = b.alloc(shape, dtype)?;
                b.write(&mut tensor, 0, &[])?;
                b.read(&tensor, 0, &mut [])?;
                ensure(b.download(&tensor)?.is_empty(), || format!("{shape:?} holds bytes"))?;
                holds_pattern(&b, &upload(&b, shape, dtype)?)?;
                if dtype.is_float() {
                    b.fill_random(&mut tensor, 1, 1.0)?;
                    let sum = b.add(&tensor, &tensor)?;
                    ensure(sum.shape() == shape, || format!("sum of {shape:?} is {:?}", sum.shape()))?;
                }
            }
        }
        Ok(())
    })
}

/// Copies beyond a tensor are [`Error::Shape`] and change nothing; sizes that cannot be are errors.
///
/// # Errors
/// The first part that fails.
pub fn ranges_are_checked<B: KernelBackend>(make: impl Fn() -> B) -> Result<(), Failure> {
    let b = make();
    part("ranges_are_checked", || {
        for dtype in DType::ALL {
            let mut tensor = upload(&b, &[3, 11], dtype)?;
            let size = tensor_bytes(&[3, 11], dtype)?;
            for (offset, len) in
                [(size, 1), (size - 1, 2), (0, size + 1), (usize::MAX, 1), (usize::MAX - 1, 4)]
            {
                let mut bytes = vec![0x11; len];
                let is_shape = |e: &Error| matches!(e, Error::Shape { .. });
                refused(
                    &format!("write of {len} at {offset}"),
                    b.write(&mut tensor, offset, &bytes),
                    is_shape,
                )?;
                refused(
                    &format!("read of {len} at {offset}"),
                    b.read(&tensor, offset, &mut bytes),
                    is_shape,
                )?;
            }
            b.write(&mut tensor, size, &[])?;
            holds_pattern(&b, &tensor)?;
        }
        let too_large = |e: &Error| matches!(e, Error::TooLarge { .. });
        refused("an overflowing shape", b.alloc(&[usize::MAX, 2], DType::F32), too_large)?;
        refused("a shape of 2^63 bytes", b.alloc(&[1 << 61], DType::F32), too_large)?;
        let no_room = |e: &Error| matches!(e, Error::TooLarge { .. } | Error::OutOfMemory { .. });
        refused("a shape of 2^60 bytes", b.alloc(&[1 << 58], DType::F32), no_room)?;
        holds_pattern(&b, &upload(&b, &[5], DType::F32)?)
    })
}

/// A fill is [`random::uniform`] rounded to the type; integers are refused.
///
/// # Errors
/// The first part that fails.
pub fn random_fills<B: KernelBackend>(make: impl Fn() -> B) -> Result<(), Failure> {
    let b = make();
    part("random_fills", || {
        for dtype in DType::FLOATS {
            for (shape, seed, scale) in
                [(&[1][..], 0, 1.0), (&[3, 7], u64::MAX, 0.5), (&[70_001], 1 << 33, 3.0)]
            {
                let mut tensor = b.alloc(shape, dtype)?;
                b.fill_random(&mut tensor, seed, scale)?;
                let mut want = Vec::new();
                for i in 0..shape.iter().product::<usize>() as u64 {
                    encode(dtype, f64::from(random::uniform(seed, i, scale)), &mut want);
                }
                let size = dtype.block_bytes();
                let got = b.download(&tensor)?;
                let wrong = got.chunks(size).zip(want.chunks(size)).position(|(g, w)| g != w);
                ensure(wrong.is_none() && got.len() == want.len(), || {
                    format!("{dtype} {shape:?}, seed {seed:#x}: element {wrong:?}")
                })?;
            }
        }
        let mut integers = b.alloc(&[3], DType::U32)?;
        let result = b.fill_random(&mut integers, 1, 1.0);
        refused("integers", result, |e| matches!(e, Error::DType { .. }))
    })
}

/// Each kind of work moves its counter; an operation moves no other.
///
/// # Errors
/// The first part that fails.
pub fn counters_move<B: KernelBackend>(make: impl Fn() -> B) -> Result<(), Failure> {
    let b = make();
    part("counters_move", || {
        let mut x = b.alloc(&[4, 4], DType::F32)?;
        let y = b.to_device_2d(&Array2::ones((4, 4)))?;
        b.fill_random(&mut x, 1, 1.0)?;
        let before = b.counters();
        b.add_into(Add { io: Io::InPlace(MatMut::new(&mut x)), y: Mat::new(&y) }.check()?)?;
        let after = b.counters();
        ensure(after.launches > before.launches, || "an operation was not counted".into())?;
        let others = |c: backend_api::Counters| (c.allocations, c.writes, c.reads, c.captures, c.replays);
        ensure(others(after) == others(before), || format!("add moved {before:?} to {after:?}"))?;
        let kept = b.alloc(&[5], DType::F16)?;
        ensure(b.counters().allocations == after.allocations + 1, || "alloc was not counted".into())?;
        b.write(&mut x, 4, &[0; 8])?;
        ensure(b.counters().writes > after.writes, || "write was not counted".into())?;
        b.read(&x, 0, &mut [0; 4])?;
        ensure(b.counters().reads > after.reads, || "read was not counted".into())?;
        drop(kept);
        Ok(())
    })
}

/// Memory in use follows the live tensors; the high water stays.
///
/// # Errors
/// The first part that fails.
pub fn memory_comes_back<B: KernelBackend>(make: impl Fn() -> B) -> Result<(), Failure> {
    let b = make();
    part("memory_comes_back", || {
        let base = b.memory().in_use;
        for _ in 0..2 {
            let one = b.alloc(&[256, 1024], DType::F32)?;
            let mut two = b.alloc(&[512, 1024], DType::BF16)?;
            b.fill_random(&mut two, 1, 1.0)?;
            let held = b.memory();
            ensure(held.in_use >= base + (2 << 20), || format!("2 MiB are not counted: {held:?}, {base}"))?;
            ensure(held.high_water >= held.in_use, || format!("high water is too low: {held:?}"))?;
            drop((one, two));
            b.synchronize()?;
            let after = b.memory();
            ensure(after.in_use == base, || format!("{base} before, {} after", after.in_use))?;
            ensure(after.high_water >= base + (2 << 20), || format!("high water fell: {after:?}"))?;
        }
        let failed = b.alloc(&[1 << 58], DType::F32).is_err() && b.memory().in_use == base;
        ensure(failed, || "a failed allocation is counted as in use".into())
    })
}

/// Tensors of another backend are [`Error::Device`].
///
/// # Errors
/// The first part that fails.
pub fn foreign_tensors_are_refused<B: KernelBackend>(make: impl Fn() -> B) -> Result<(), Failure> {
    let (a, b) = (make(), make());
    part("foreign_tensors_are_refused", || {
        ensure(a.device() != b.device(), || "two backends share an id".into())?;
        let is_device = |e: &Error| matches!(e, Error::Device { .. });
        let (own, mut foreign) = (b.alloc(&[2, 2], DType::F32)?, a.alloc(&[2, 2], DType::F32)?);
        refused("operands of two backends", b.add(&own, &foreign), is_device)?;
        refused("softmax", b.softmax(&foreign), is_device)?;
        let op = Add { io: Io::InPlace(MatMut::new(&mut foreign)), y: Mat::new(&own) };
        refused("an output of another backend", op.check(), is_device)?;
        refused("write", b.write(&mut foreign, 0, &[0; 4]), is_device)?;
        refused("read", b.read(&foreign, 0, &mut [0; 4]), is_device)?;
        refused("fill_random", b.fill_random(&mut foreign, 1, 1.0), is_device)?;
        a.fill_random(&mut foreign, 1, 1.0)?;
        Ok(())
    })
}

/// The bandwidth is a positive number, found in a few seconds.
///
/// # Errors
/// The first part that fails.
pub fn bandwidth_is_measured<B: KernelBackend>(make: impl Fn() -> B) -> Result<(), Failure> {
    let b = make();
    part("bandwidth_is_measured", || {
        let (base, start) = (b.memory().in_use, Instant::now());
        let bandwidth = b.read_bandwidth()?;
        ensure(bandwidth.is_finite() && bandwidth > 1e7, || format!("{bandwidth} bytes/s"))?;
        ensure(start.elapsed().as_secs() < 20, || format!("took {:?}", start.elapsed()))?;
        ensure(b.memory().in_use == base, || "the probe kept its memory".into())
    })
}
