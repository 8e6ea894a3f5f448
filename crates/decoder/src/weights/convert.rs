//! Reading elements of one type as elements of another.

use backend_api::{DType, Result, bf16, f16};
use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;

use super::source::Source;

/// Elements that are converted at a time: the two buffers of a piece take at most 1 MiB together.
const PIECE: usize = 1 << 17;

/// Fills `out` with elements of `wanted` made from those of `stored` that begin at byte `start` of `source`.
///
/// `out` holds whole elements, and both types are floats.
pub(super) fn read(
    source: &Source,
    tensor: &str,
    start: u64,
    stored: DType,
    wanted: DType,
    out: &mut [u8],
) -> Result<()> {
    let reader = Reader { source, tensor, start };
    match (stored, wanted) {
        (DType::F32, DType::F16) => {
            reader.convert(out, |from: &[f32], to: &mut [f16]| to.convert_from_f32_slice(from))
        }
        (DType::F32, DType::BF16) => {
            reader.convert(out, |from: &[f32], to: &mut [bf16]| to.convert_from_f32_slice(from))
        }
        (DType::F16, DType::F32) => {
            reader.convert(out, |from: &[f16], to: &mut [f32]| from.convert_to_f32_slice(to))
        }
        (DType::BF16, DType::F32) => {
            reader.convert(out, |from: &[bf16], to: &mut [f32]| from.convert_to_f32_slice(to))
        }
        (DType::F16, DType::BF16) => reader.convert(out, |from: &[f16], to: &mut [bf16]| {
            through_f32(
                from,
                to,
                |f, wide| f.convert_to_f32_slice(wide),
                |t, wide| t.convert_from_f32_slice(wide),
            );
        }),
        (DType::BF16, DType::F16) => reader.convert(out, |from: &[bf16], to: &mut [f16]| {
            through_f32(
                from,
                to,
                |f, wide| f.convert_to_f32_slice(wide),
                |t, wide| t.convert_from_f32_slice(wide),
            );
        }),
        _ => reader.copy(start, out),
    }
}

struct Reader<'a> {
    source: &'a Source,
    tensor: &'a str,
    start: u64,
}

impl Reader<'_> {
    fn copy(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.source.read_at(format_args!("tensor `{}`", self.tensor), offset, out)
    }

    fn convert<S: Pod, D: Pod>(&self, out: &mut [u8], convert: impl Fn(&[S], &mut [D])) -> Result<()> {
        let mut piece = Vec::new();
        let mut unaligned = Vec::new();
        let mut offset = self.start;
        for to in out.chunks_mut(PIECE * size_of::<D>()) {
            piece.resize(to.len() / size_of::<D>(), S::zeroed());
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut piece);
            self.copy(offset, bytes)?;
            offset = offset.saturating_add(bytes.len() as u64);
            if let Ok(to) = bytemuck::try_cast_slice_mut(to) {
                convert(&piece, to);
            } else {
                unaligned.resize(piece.len(), D::zeroed());
                convert(&piece, &mut unaligned);
                to.copy_from_slice(bytemuck::cast_slice(&unaligned));
            }
        }
        Ok(())
    }
}

/// Every half-precision value is an f32, so that only the second conversion rounds.
fn through_f32<S, D>(
    from: &[S],
    to: &mut [D],
    widen: impl Fn(&[S], &mut [f32]),
    narrow: impl Fn(&mut [D], &[f32]),
) {
    let mut wide = [0.0; 1024];
    for (from, to) in from.chunks(wide.len()).zip(to.chunks_mut(1024)) {
        let wide = &mut wide[..from.len()];
        widen(from, wide);
        narrow(to, wide);
    }
}
