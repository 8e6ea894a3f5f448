//! AVX-512 and AVX2.

use bytemuck::cast;
use pulp::Simd;
use pulp::x86::{V3, V4};

use super::{Lanes, f16_from_shifted, padded};

/// Bytes of a cache line.
const LINE: usize = 64;

impl Lanes for V4 {
    type Half = [u16; 16];

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
        let wide = self.avx512f._mm512_cvtepu16_epi32(cast(bits));
        cast(self.avx512f._mm512_slli_epi32::<16>(wide))
    }

    #[inline(always)]
    fn widen_f16(self, bits: Self::Half) -> Self::f32s {
        cast(self.avx512f._mm512_cvtph_ps(cast(bits)))
    }

    type Square = [Self::f32s; 16];

    #[inline(always)]
    fn zero_square(self) -> Self::Square {
        [self.splat_f32s(0.0); 16]
    }

    #[inline(always)]
    fn transpose(self, rows: Self::Square) -> Self::Square {
        // After two rounds, vector 4i + j holds in its 128-bit part l the column 4l + j of rows 4i to 4i + 3.
        let f = self.avx512f;
        let mut pairs = rows;
        for i in 0..8 {
            let (a, b) = (cast(rows[2 * i]), cast(rows[2 * i + 1]));
            pairs[2 * i] = cast(f._mm512_unpacklo_ps(a, b));
            pairs[2 * i + 1] = cast(f._mm512_unpackhi_ps(a, b));
        }
        let mut fours = pairs;
        for i in 0..4 {
            for j in 0..2 {
                let (a, b) = (cast(pairs[4 * i + j]), cast(pairs[4 * i + j + 2]));
                fours[4 * i + 2 * j] = cast(f._mm512_unpacklo_pd(a, b));
                fours[4 * i + 2 * j + 1] = cast(f._mm512_unpackhi_pd(a, b));
            }
        }
        let mut out = fours;
        for j in 0..4 {
            let (a, b) = (cast(fours[j]), cast(fours[4 + j]));
            let (c, d) = (cast(fours[8 + j]), cast(fours[12 + j]));
            let (p, q) = (f._mm512_shuffle_f32x4::<0x44>(a, b), f._mm512_shuffle_f32x4::<0xee>(a, b));
            let (r, s) = (f._mm512_shuffle_f32x4::<0x44>(c, d), f._mm512_shuffle_f32x4::<0xee>(c, d));
            out[j] = cast(f._mm512_shuffle_f32x4::<0x88>(p, r));
            out[4 + j] = cast(f._mm512_shuffle_f32x4::<0xdd>(p, r));
            out[8 + j] = cast(f._mm512_shuffle_f32x4::<0x88>(q, s));
            out[12 + j] = cast(f._mm512_shuffle_f32x4::<0xdd>(q, s));
        }
        out
    }

    #[inline(always)]
    fn sum_rows(self, rows: Self::Square) -> Self::f32s {
        let f = self.avx512f;
        let mut twos = [rows[0]; 8];
        for i in 0..8 {
            let (a, b) = (cast(rows[2 * i]), cast(rows[2 * i + 1]));
            twos[i] = cast(f._mm512_add_ps(f._mm512_unpacklo_ps(a, b), f._mm512_unpackhi_ps(a, b)));
        }
        // Every 128-bit part of vector i then holds that part's sums of rows 4i to 4i + 3.
        let mut fours = [rows[0]; 4];
        for i in 0..4 {
            let (a, b) = (cast(twos[2 * i]), cast(twos[2 * i + 1]));
            let (low, high) = (f._mm512_unpacklo_pd(a, b), f._mm512_unpackhi_pd(a, b));
            fours[i] = cast(f._mm512_add_ps(cast(low), cast(high)));
        }
        let mut parts = [fours[0]; 2];
        for i in 0..2 {
            let (a, b) = (cast(fours[2 * i]), cast(fours[2 * i + 1]));
            let (even, odd) = (f._mm512_shuffle_f32x4::<0x88>(a, b), f._mm512_shuffle_f32x4::<0xdd>(a, b));
            parts[i] = cast(f._mm512_add_ps(even, odd));
        }
        let (a, b) = (cast(parts[0]), cast(parts[1]));
        cast(f._mm512_add_ps(f._mm512_shuffle_f32x4::<0x88>(a, b), f._mm512_shuffle_f32x4::<0xdd>(a, b)))
    }

    #[inline(always)]
    fn prefetch<T>(self, values: &[T]) {
        for line in values.chunks(LINE / size_of::<T>().clamp(1, LINE)) {
            self.sse._mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast());
        }
    }

    #[inline(always)]
    fn fma(self, a: Self::f32s, b: Self::f32s, c: Self::f32s) -> Self::f32s {
        self.mul_add_e_f32s(a, b, c)
    }
}

impl Lanes for V3 {
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
        let wide = self.avx2._mm256_cvtepu16_epi32(cast(bits));
        cast(self.avx2._mm256_slli_epi32::<16>(wide))
    }

    #[inline(always)]
    fn widen_f16(self, bits: Self::Half) -> Self::f32s {
        let wide = self.avx2._mm256_cvtepi16_epi32(cast(bits));
        f16_from_shifted(self, cast(self.avx2._mm256_slli_epi32::<13>(wide)))
    }

    type Square = [Self::f32s; 8];

    #[inline(always)]
    fn zero_square(self) -> Self::Square {
        [self.splat_f32s(0.0); 8]
    }

    #[inline(always)]
    fn transpose(self, rows: Self::Square) -> Self::Square {
        // After two rounds, vector 4i + j holds in its 128-bit part l the column 4l + j of rows 4i to 4i + 3.
        let mut pairs = rows;
        for i in 0..4 {
            let (a, b) = (cast(rows[2 * i]), cast(rows[2 * i + 1]));
            pairs[2 * i] = cast(self.avx._mm256_unpacklo_ps(a, b));
            pairs[2 * i + 1] = cast(self.avx._mm256_unpackhi_ps(a, b));
        }
        let mut fours = pairs;
        for i in 0..2 {
            for j in 0..2 {
                let (a, b) = (cast(pairs[4 * i + j]), cast(pairs[4 * i + j + 2]));
                fours[4 * i + 2 * j] = cast(self.avx._mm256_unpacklo_pd(a, b));
                fours[4 * i + 2 * j + 1] = cast(self.avx._mm256_unpackhi_pd(a, b));
            }
        }
        let mut out = fours;
        for j in 0..4 {
            let (a, b) = (cast(fours[j]), cast(fours[4 + j]));
            out[j] = cast(self.avx._mm256_permute2f128_ps::<0x20>(a, b));
            out[4 + j] = cast(self.avx._mm256_permute2f128_ps::<0x31>(a, b));
        }
        out
    }

    #[inline(always)]
    fn sum_rows(self, rows: Self::Square) -> Self::f32s {
        let f = self.avx;
        let mut twos = [rows[0]; 4];
        for i in 0..4 {
            let (a, b) = (cast(rows[2 * i]), cast(rows[2 * i + 1]));
            twos[i] = cast(f._mm256_add_ps(f._mm256_unpacklo_ps(a, b), f._mm256_unpackhi_ps(a, b)));
        }
        // Every 128-bit part of vector i then holds that part's sums of rows 4i to 4i + 3.
        let mut fours = [rows[0]; 2];
        for i in 0..2 {
            let (a, b) = (cast(twos[2 * i]), cast(twos[2 * i + 1]));
            let (low, high) = (f._mm256_unpacklo_pd(a, b), f._mm256_unpackhi_pd(a, b));
            fours[i] = cast(f._mm256_add_ps(cast(low), cast(high)));
        }
        let (a, b) = (cast(fours[0]), cast(fours[1]));
        cast(f._mm256_add_ps(f._mm256_permute2f128_ps::<0x20>(a, b), f._mm256_permute2f128_ps::<0x31>(a, b)))
    }

    #[inline(always)]
    fn prefetch<T>(self, values: &[T]) {
        for line in values.chunks(LINE / size_of::<T>().clamp(1, LINE)) {
            self.sse._mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast());
        }
    }

    #[inline(always)]
    fn fma(self, a: Self::f32s, b: Self::f32s, c: Self::f32s) -> Self::f32s {
        self.mul_add_e_f32s(a, b, c)
    }
}
