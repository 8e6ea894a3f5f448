//! Threads fill parts of the tensor with values that depend on the seed and the index only.

use backend_api::random::uniforms;
use backend_api::{DType, Error, Result};
use rayon::prelude::*;

use crate::CpuTensor;
use crate::kernel::element::Element;
use crate::tensor::Storage;

/// Elements filled by one task; a multiple of the four that one random block gives.
const PART: usize = 1 << 16;

pub(crate) fn fill_random(dst: &mut CpuTensor, seed: u64, scale: f32) -> Result<()> {
    match dst.storage_mut() {
        Storage::F32(v) => fill(v, seed, scale),
        Storage::F16(v) => fill(v, seed, scale),
        Storage::BF16(v) => fill(v, seed, scale),
        Storage::U32(_) => {
            let expected = "a float type";
            return Err(Error::DType { op: "fill_random", operand: "dst", expected, got: DType::U32 });
        }
    }
    Ok(())
}

fn fill<T: Element>(data: &mut [T], seed: u64, scale: f32) {
    data.par_chunks_mut(PART).enumerate().for_each(|(part, chunk)| {
        for (i, four) in chunk.chunks_mut(4).enumerate() {
            let values = uniforms(seed, (part * PART / 4 + i) as u64, scale);
            four.iter_mut().zip(values).for_each(|(v, x)| *v = T::from_f32(x));
        }
    });
}
