//! Matrices on the host: f64 values that are exact in their storage type.

use backend_api::{DType, bf16, f16, random};

/// A matrix whose elements are representable in `dtype`; integers too are kept as f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Storage type.
    pub dtype: DType,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
    /// Row-major elements.
    pub data: Vec<f64>,
}

impl Host {
    /// Rounds the elements that `value(row, col)` gives.
    pub fn from_fn((rows, cols): (usize, usize), dtype: DType, value: impl Fn(usize, usize) -> f64) -> Self {
        let element = |i: usize| round(dtype, value(i / cols, i % cols));
        Self { dtype, rows, cols, data: (0..rows * cols).map(element).collect() }
    }

    /// Uniform in `[-scale, scale)`, element `i` from counter `i`, as `fill_random` would.
    pub fn random(seed: u64, (rows, cols): (usize, usize), dtype: DType, scale: f32) -> Self {
        Self::from_fn((rows, cols), dtype, |r, c| {
            f64::from(random::uniform(seed, (r * cols + c) as u64, scale))
        })
    }

    /// One row of integers.
    pub fn index(values: &[u32]) -> Self {
        Self {
            dtype: DType::U32,
            rows: 1,
            cols: values.len(),
            data: values.iter().map(|v| f64::from(*v)).collect(),
        }
    }

    /// The elements of a row.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.data[row * self.cols..(row + 1) * self.cols]
    }

    /// An element.
    pub fn at(&self, row: usize, col: usize) -> f64 {
        self.data[row * self.cols + col]
    }

    /// The elements as a backend stores them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.data.len() * self.dtype.block_bytes());
        self.data.iter().for_each(|v| encode(self.dtype, *v, &mut bytes));
        bytes
    }
}

/// Significand bits (the leading one included) and exponent of the least normal number.
fn format(dtype: DType) -> Option<(i32, i32)> {
    match dtype {
        DType::F32 => Some((24, -126)),
        DType::F16 => Some((11, -14)),
        DType::BF16 => Some((8, -126)),
        _ => None,
    }
}

/// The smallest positive number of a float type; 0 for integers.
pub(crate) fn smallest(dtype: DType) -> f64 {
    format(dtype).map_or(0.0, |(bits, min)| f64::from(min - bits + 1).exp2())
}

/// The largest finite number of a float type; infinite for integers.
pub(crate) fn largest(dtype: DType) -> f64 {
    match format(dtype) {
        Some((bits, min)) => (2.0 - f64::from(1 - bits).exp2()) * f64::from(1 - min).exp2(),
        None => f64::INFINITY,
    }
}

/// The nearest number of the type, ties to even; numbers too large become infinite. Integers stay as they are.
pub fn round(dtype: DType, value: f64) -> f64 {
    let Some((bits, min)) = format(dtype) else { return value };
    if !value.is_finite() || value == 0.0 {
        return value;
    }
    let exponent = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let quantum = f64::from(exponent.max(min) - bits + 1).exp2();
    let rounded = (value / quantum).round_ties_even() * quantum;
    if rounded.abs() > largest(dtype) { f64::INFINITY.copysign(value) } else { rounded }
}

/// Appends the bytes of a number that the type represents.
pub fn encode(dtype: DType, value: f64, bytes: &mut Vec<u8>) {
    match dtype {
        DType::F16 => bytes.extend(f16::from_f64(round(dtype, value)).to_ne_bytes()),
        DType::BF16 => bytes.extend(bf16::from_f64(round(dtype, value)).to_ne_bytes()),
        DType::U32 => bytes.extend((value as u32).to_ne_bytes()),
        _ => bytes.extend((value as f32).to_ne_bytes()),
    }
}

/// The numbers in a tensor's bytes.
pub fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let half = |b: &[u8]| u16::from_ne_bytes([b[0], b[1]]);
    let word = |b: &[u8]| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
    match dtype {
        DType::F16 => bytes.chunks_exact(2).map(|b| f16::from_bits(half(b)).to_f64()).collect(),
        DType::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_bits(half(b)).to_f64()).collect(),
        DType::U32 => bytes.chunks_exact(4).map(|b| f64::from(word(b))).collect(),
        _ => bytes.chunks_exact(4).map(|b| f64::from(f32::from_bits(word(b)))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_types() {
        assert_eq!(largest(DType::F32), f64::from(f32::MAX));
        assert_eq!(largest(DType::F16), f16::MAX.to_f64());
        assert_eq!(largest(DType::BF16), bf16::MAX.to_f64());
        assert_eq!(smallest(DType::F32), f64::from(f32::from_bits(1)));
        assert_eq!(smallest(DType::F16), f16::from_bits(1).to_f64());
        assert_eq!(smallest(DType::BF16), bf16::from_bits(1).to_f64());
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        assert_eq!(round(DType::BF16, 1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(round(DType::BF16, 1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert_eq!(round(DType::BF16, 1.0 + 1.0 / 256.0 + 1e-15), 1.0 + 2.0 / 256.0);
        assert_eq!(round(DType::F16, 65519.9), 65504.0);
        assert_eq!(round(DType::F16, -65520.0), f64::NEG_INFINITY);
        assert_eq!(round(DType::F16, 3e-8), smallest(DType::F16));
        for i in 0..10_000 {
            let v = f64::from(random::uniform(3, i, 1.0)) * f64::from(random::uniform(4, i, 1e-36));
            assert_eq!(round(DType::F32, v), f64::from(v as f32), "{v}");
        }
    }

    #[test]
    fn every_half_survives_the_round_trip() {
        for dtype in [DType::F16, DType::BF16] {
            for bits in 0..=u16::MAX {
                let value = decode(dtype, &bits.to_ne_bytes())[0];
                let mut bytes = Vec::new();
                encode(dtype, value, &mut bytes);
                assert!(value.is_nan() || bytes == bits.to_ne_bytes(), "{dtype} {bits:#x}");
                assert!(value.is_nan() || round(dtype, value) == value);
            }
        }
    }
}
