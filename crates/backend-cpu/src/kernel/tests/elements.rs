use half::{bf16, f16};

use super::{at_every_level, random, same, stored};
use crate::kernel::element::{Element, narrow, widen, widen_with};
use crate::kernel::lanes::{Kernel, Lanes, Level};

struct WidenAll<'a, W>(&'a [W]);

impl<W: Element> Kernel for WidenAll<'_, W> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> Vec<f32> {
        let mut out = vec![0.0; self.0.len()];
        widen_with(simd, self.0, &mut out);
        out
    }
}

#[test]
fn all_16_bit_values_are_widened_exactly_at_every_level() {
    for level in Level::available() {
        // Beginning at 3 makes every position of a vector, and the tail, see different values.
        for skip in [0_usize, 3] {
            let halves: Vec<f16> = (0..=u16::MAX).skip(skip).map(f16::from_bits).collect();
            for (h, wide) in halves.iter().zip(level.run(WidenAll(&halves))) {
                let expected = f16_by_definition(h.to_bits());
                assert!(same(wide, expected), "{level:?}: {:#06x} gave {wide}, not {expected}", h.to_bits());
                assert!(same(Element::to_f32(*h), expected));
            }
            let brains: Vec<bf16> = (0..=u16::MAX).skip(skip).map(bf16::from_bits).collect();
            for (b, wide) in brains.iter().zip(level.run(WidenAll(&brains))) {
                let expected = f32::from_bits(u32::from(b.to_bits()) << 16);
                assert!(same(wide, expected), "{level:?}: {:#06x}", b.to_bits());
                assert!(same(Element::to_f32(*b), expected));
            }
        }
    }
}

fn f16_by_definition(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from((bits >> 10) & 31), f64::from(bits & 1023));
    let magnitude = match exponent {
        0 => fraction * 2.0_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2.0_f64.powi(exponent - 25),
    };
    (sign * magnitude) as f32
}

#[test]
fn narrowing_rounds_to_nearest_even() {
    let mut values: Vec<f32> =
        random(1, 4096).iter().flat_map(|&v| [v, v * 7e4, v * 1e-5, v * 3e-8, v * 1e38]).collect();
    for bits in 0..=u16::MAX {
        let v = f16_by_definition(bits);
        let next = f16_by_definition(bits.wrapping_add(1));
        let middle = v / 2.0 + next / 2.0;
        values.extend([v, middle, middle.next_up(), middle.next_down()]);
        let brain = f32::from_bits(u32::from(bits) << 16);
        values.extend([
            brain,
            f32::from_bits((u32::from(bits) << 16) + 0x8000),
            f32::from_bits((u32::from(bits) << 16) + 0x8001),
        ]);
    }
    values.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE]);
    values.push(f32::from_bits(0x7f80_0001));
    let mut halves = vec![f16::default(); values.len()];
    let mut brains = vec![bf16::default(); values.len()];
    narrow(&values, &mut halves);
    narrow(&values, &mut brains);
    for ((&v, h), b) in values.iter().zip(halves).zip(brains) {
        let (half, brain) = (f16::from_f32_const(v), bf16::from_f32_const(v));
        assert!(
            h == half && h.is_sign_negative() == half.is_sign_negative() || h.is_nan() && v.is_nan(),
            "{v:e}: {h:?}"
        );
        assert!(
            b == brain && b.is_sign_negative() == brain.is_sign_negative() || b.is_nan() && v.is_nan(),
            "{v:e}: {b:?}"
        );
    }
}

#[test]
fn widening_any_length() {
    at_every_level(check_widening);
}

fn check_widening() {
    for len in [0, 1, 7, 8, 15, 16, 17, 31, 33, 1023] {
        let values: Vec<bf16> = stored(&random(2, len));
        let mut wide = vec![9.0; len];
        widen(&values, &mut wide);
        assert!(values.iter().zip(&wide).all(|(&v, &w)| Element::to_f32(v) == w), "{len}");
    }
}

struct TransposeOnce;

impl Kernel for TransposeOnce {
    type Output = bool;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> bool {
        let lanes = S::F32_LANES;
        let mut square = simd.zero_square();
        for (i, row) in square.as_mut().iter_mut().enumerate() {
            let values: Vec<f32> = (0..lanes).map(|j| (i * lanes + j) as f32).collect();
            *row = simd.partial_load_f32s(&values);
        }
        let mut columns = simd.transpose(square);
        columns.as_mut().iter().enumerate().all(|(i, &column)| {
            let mut values = vec![0.0; lanes];
            simd.partial_store_f32s(&mut values, column);
            values.iter().enumerate().all(|(j, &v)| v == (j * lanes + i) as f32)
        })
    }
}

#[test]
fn squares_are_transposed_at_every_level() {
    assert!(Level::available().into_iter().all(|level| level.run(TransposeOnce)));
}
