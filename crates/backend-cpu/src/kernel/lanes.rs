//! One vector width at a time: what the kernels need of a SIMD level beyond [`pulp::Simd`], and the choice of
//! the level at run time.

#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

use bytemuck::cast;
#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};
use pulp::{NullaryFnOnce, Scalar256b, Simd};

/// A SIMD level that can widen 16-bit floats.
pub(crate) trait Lanes: Simd {
    /// As many 16-bit values as one `f32` vector has lanes.
    type Half: Copy + Send + Sync + 'static;

    /// Cuts `values` into vectors; the second part is shorter than one vector.
    fn halves(values: &[u16]) -> (&[Self::Half], &[u16]);

    /// `tail`, at most one vector, followed by zeros.
    fn partial_half(tail: &[u16]) -> Self::Half;

    /// The `f32` values of bfloat16 bits.
    fn widen_bf16(self, bits: Self::Half) -> Self::f32s;

    /// The `f32` values of IEEE binary16 bits, exact for subnormals, infinities and NaN.
    fn widen_f16(self, bits: Self::Half) -> Self::f32s;

    /// As many vectors as a vector has lanes.
    type Square: Copy + AsMut<[Self::f32s]>;

    /// A square matrix of zeros.
    fn zero_square(self) -> Self::Square;

    /// Rows become columns.
    fn transpose(self, rows: Self::Square) -> Self::Square;

    /// The sum of each row.
    fn sum_rows(self, rows: Self::Square) -> Self::f32s;

    /// Asks for the cache lines of `values`, which will be read soon.
    fn prefetch<T>(self, values: &[T]);

    /// `a * b + c`, fused where the machine fuses.
    fn fma(self, a: Self::f32s, b: Self::f32s, c: Self::f32s) -> Self::f32s;
}

/// An array of 16-bit values that begins with `tail`.
#[inline(always)]
fn padded<const N: usize>(tail: &[u16]) -> [u16; N] {
    let mut out = [0; N];
    for (o, &t) in out.iter_mut().zip(tail) {
        *o = t;
    }
    out
}

impl Lanes for Scalar256b {
    type Half = [u16; 8];

    #[inline(always)]
    fn halves(values: &[u16]) -> (&[Self::Half], &[u16]) {
        values.as_chunks()
    }

    #[inline(always)]
    fn partial_half(tail: &[u16]) -> Self::Half {
        padded(tail)
    }

    #[inline(always)]
    fn widen_bf16(self, bits: Self::Half) -> Self::f32s {
        cast(bits.map(|b| u32::from(b) << 16))
    }

    #[inline(always)]
    fn widen_f16(self, bits: Self::Half) -> Self::f32s {
        f16_from_shifted(self, cast(bits.map(|b| (i32::from(b.cast_signed()) << 13).cast_unsigned())))
    }

    type Square = [Self::f32s; 8];

    #[inline(always)]
    fn zero_square(self) -> Self::Square {
        [self.splat_f32s(0.0); 8]
    }

    #[inline(always)]
    fn transpose(self, rows: Self::Square) -> Self::Square {
        let from: [[f32; 8]; 8] = cast(rows);
        let mut to = [[0.0_f32; 8]; 8];
        for (i, row) in from.iter().enumerate() {
            for (column, &value) in to.iter_mut().zip(row) {
                column[i] = value;
            }
        }
        cast(to)
    }

    #[inline(always)]
    fn sum_rows(self, rows: Self::Square) -> Self::f32s {
        let columns = self.transpose(rows);
        let mut sum = columns[0];
        for &column in &columns[1..] {
            sum = self.add_f32s(sum, column);
        }
        sum
    }

    #[inline(always)]
    fn prefetch<T>(self, _: &[T]) {}

    #[inline(always)]
    fn fma(self, a: Self::f32s, b: Self::f32s, c: Self::f32s) -> Self::f32s {
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            self.mul_add_e_f32s(a, b, c)
        } else {
            self.add_f32s(self.mul_f32s(a, b), c)
        }
    }
}

/// Binary16 to `f32` from the sign-extended bits moved left by 13: exponent and mantissa stand where `f32` has
/// them, only the exponent's bias is 112 too small.
///
/// Normal numbers get 112 added to the exponent. Infinities and NaN get 112 twice. A subnormal `m · 2^-24` is
/// read as `2^-14 (1 + m/1024)`, from which `2^-14` is taken away, which is exact and touches no `f32` subnormal.
#[inline(always)]
fn f16_from_shifted<S: Simd>(simd: S, shifted: S::u32s) -> S::f32s {
    let sign = simd.and_u32s(shifted, simd.splat_u32s(0x8000_0000));
    let magnitude = simd.and_u32s(shifted, simd.splat_u32s(0x0fff_e000));
    let special = simd.greater_than_or_equal_u32s(magnitude, simd.splat_u32s(0x0f80_0000));
    let subnormal = simd.less_than_u32s(magnitude, simd.splat_u32s(0x0080_0000));
    let bias = simd.splat_u32s(112 << 23);
    let rebased = simd.add_u32s(magnitude, bias);
    let doubled = simd.add_u32s(rebased, bias);
    let raised = simd.transmute_f32s_u32s(simd.add_u32s(magnitude, simd.splat_u32s(113 << 23)));
    let small = simd.transmute_u32s_f32s(simd.sub_f32s(raised, simd.splat_f32s(1.0 / 16384.0)));
    let bits = simd.select_u32s(subnormal, small, simd.select_u32s(special, doubled, rebased));
    simd.transmute_f32s_u32s(simd.or_u32s(bits, sign))
}

/// Arithmetic written once for every level.
pub(crate) trait Kernel {
    /// What [`Kernel::run`] gives.
    type Output;

    /// Runs with the vectors of `simd`. Mark it `#[inline(always)]`, or it is compiled without them.
    fn run<S: Lanes>(self, simd: S) -> Self::Output;
}

/// The instruction sets that the kernels are compiled for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    /// AVX-512 F, BW, CD, DQ, VL.
    #[cfg(target_arch = "x86_64")]
    V4(V4),
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    V3(V3),
    /// What every machine of the target has.
    Portable,
}

impl Level {
    /// All levels that this machine can run, the widest first.
    pub(crate) fn available() -> Vec<Self> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(V4::try_new().map(Self::V4));
            levels.extend(V3::try_new().map(Self::V3));
        }
        levels.push(Self::Portable);
        levels
    }

    /// The widest level of this machine.
    pub(crate) fn best() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().first().copied().unwrap_or(Self::Portable))
    }

    /// Runs `kernel` with this level's instructions.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::V4(simd) => simd.vectorize(Call { simd, kernel }),
            #[cfg(target_arch = "x86_64")]
            Self::V3(simd) => simd.vectorize(Call { simd, kernel }),
            Self::Portable => kernel.run(Scalar256b),
        }
    }
}

#[cfg(test)]
thread_local! {
    /// The level that [`dispatch`] takes on this thread instead of the best one.
    pub(crate) static FORCED: std::cell::Cell<Option<Level>> = const { std::cell::Cell::new(None) };
}

/// Runs `kernel` with the widest vectors of this machine.
#[inline]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(test)]
    if let Some(level) = FORCED.get() {
        return level.run(kernel);
    }
    Level::best().run(kernel)
}

struct Call<S, K> {
    simd: S,
    kernel: K,
}

impl<S: Lanes, K: Kernel> NullaryFnOnce for Call<S, K> {
    type Output = K::Output;

    #[inline(always)]
    fn call(self) -> K::Output {
        self.kernel.run(self.simd)
    }
}
