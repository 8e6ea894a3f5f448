//! Storage types of weights and caches, read as `f32`.

use half::{bf16, f16};

use super::lanes::{Kernel, Lanes, dispatch};
use super::part::part;

/// A storage type. A new one is one `impl`: how a vector of it becomes `f32`, and how one value is rounded.
pub(crate) trait Element: Copy + Default + Send + Sync + 'static {
    /// As many values as one `f32` vector has lanes.
    type Packed<S: Lanes>: Copy;

    /// Cuts `values` into vectors; the second part is shorter than one vector.
    fn packed<S: Lanes>(values: &[Self]) -> (&[Self::Packed<S>], &[Self]);

    /// `tail`, at most one vector, followed by zeros.
    fn partial<S: Lanes>(simd: S, tail: &[Self]) -> Self::Packed<S>;

    /// The exact `f32` values.
    fn widen<S: Lanes>(simd: S, packed: Self::Packed<S>) -> S::f32s;

    /// The exact `f32` value.
    fn to_f32(self) -> f32;

    /// The nearest value, ties to even; overflow gives an infinity, NaN stays NaN.
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    type Packed<S: Lanes> = S::f32s;

    #[inline(always)]
    fn packed<S: Lanes>(values: &[Self]) -> (&[Self::Packed<S>], &[Self]) {
        S::as_simd_f32s(values)
    }

    #[inline(always)]
    fn partial<S: Lanes>(simd: S, tail: &[Self]) -> Self::Packed<S> {
        simd.partial_load_f32s(tail)
    }

    #[inline(always)]
    fn widen<S: Lanes>(_: S, packed: Self::Packed<S>) -> S::f32s {
        packed
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    type Packed<S: Lanes> = S::Half;

    #[inline(always)]
    fn packed<S: Lanes>(values: &[Self]) -> (&[Self::Packed<S>], &[Self]) {
        let (head, _) = S::halves(bytemuck::cast_slice(values));
        (head, part(values, values.len() - values.len() % S::F32_LANES..))
    }

    #[inline(always)]
    fn partial<S: Lanes>(_: S, tail: &[Self]) -> Self::Packed<S> {
        S::partial_half(bytemuck::cast_slice(tail))
    }

    #[inline(always)]
    fn widen<S: Lanes>(simd: S, packed: Self::Packed<S>) -> S::f32s {
        simd.widen_bf16(packed)
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet = (bits >> 16) | 0x0040;
        Self::from_bits(if value.is_nan() { quiet as u16 } else { rounded as u16 })
    }
}

impl Element for f16 {
    type Packed<S: Lanes> = S::Half;

    #[inline(always)]
    fn packed<S: Lanes>(values: &[Self]) -> (&[Self::Packed<S>], &[Self]) {
        let (head, _) = S::halves(bytemuck::cast_slice(values));
        (head, part(values, values.len() - values.len() % S::F32_LANES..))
    }

    #[inline(always)]
    fn partial<S: Lanes>(_: S, tail: &[Self]) -> Self::Packed<S> {
        S::partial_half(bytemuck::cast_slice(tail))
    }

    #[inline(always)]
    fn widen<S: Lanes>(simd: S, packed: Self::Packed<S>) -> S::f32s {
        simd.widen_f16(packed)
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.to_f32_const()
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        round_to_f16(value)
    }
}

/// `f32` to binary16, to nearest, ties to even, without branches that stop a loop from being vectorised.
#[inline(always)]
fn round_to_f16(value: f32) -> f16 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let normal = magnitude.wrapping_add(0xfff + ((magnitude >> 13) & 1)).wrapping_sub(112 << 23) >> 13;
    // Adding 0.5 aligns the value to multiples of 2^-24, the spacing of the subnormals, and rounds it there.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits());
    let finite = if magnitude < 113 << 23 { subnormal } else { normal };
    let overflow = if magnitude > 0x7f80_0000 { 0x7e00 | ((magnitude >> 13) & 0x3ff) } else { 0x7c00 };
    let result = if magnitude >= 0x4780_0000 { overflow } else { finite };
    f16::from_bits((result | ((bits >> 16) & 0x8000)) as u16)
}

struct Widen<'a, W> {
    from: &'a [W],
    to: &'a mut [f32],
}

impl<W: Element> Kernel for Widen<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        widen_with(simd, self.from, self.to);
    }
}

/// [`widen`] inside another kernel.
#[inline(always)]
pub(crate) fn widen_with<S: Lanes, W: Element>(simd: S, from: &[W], to: &mut [f32]) {
    let (from_head, from_tail) = W::packed::<S>(from);
    let (to_head, to_tail) = S::as_mut_simd_f32s(to);
    for (t, &f) in to_head.iter_mut().zip(from_head) {
        *t = W::widen(simd, f);
    }
    if !from_tail.is_empty() {
        simd.partial_store_f32s(to_tail, W::widen(simd, W::partial(simd, from_tail)));
    }
}

/// Writes the `f32` values of `from` to `to`, which has the same length.
pub(crate) fn widen<W: Element>(from: &[W], to: &mut [f32]) {
    debug_assert_eq!(from.len(), to.len());
    dispatch(Widen { from, to });
}

struct Narrow<'a, W> {
    from: &'a [f32],
    to: &'a mut [W],
}

impl<W: Element> Kernel for Narrow<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        for (t, &f) in self.to.iter_mut().zip(self.from) {
            *t = W::from_f32(f);
        }
    }
}

/// Writes `from`, rounded to the storage type, to `to`, which has the same length.
pub(crate) fn narrow<W: Element>(from: &[f32], to: &mut [W]) {
    debug_assert_eq!(from.len(), to.len());
    dispatch(Narrow { from, to });
}
