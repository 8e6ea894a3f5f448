//! Tensors in host memory, and typed views of their windows.

use std::borrow::Cow;
use std::ops::Range;

use backend_api::{
    DType, DeviceId, DeviceTensor, Error, Io, Mat, MatMut, Result, Window, bf16, f16, tensor_bytes,
};
use rayon::prelude::*;

use crate::kernel::element::{Element, narrow, widen};
use crate::kernel::part::part;
use crate::kernel::rows::{Rows, RowsMut};
use crate::memory::Lease;

/// A tensor in host memory.
#[derive(Debug)]
#[must_use]
pub struct CpuTensor {
    storage: Storage,
    shape: Vec<usize>,
    device: DeviceId,
    _lease: Lease,
}

#[derive(Debug)]
pub(crate) enum Storage {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    U32(Vec<u32>),
}

impl DeviceTensor for CpuTensor {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn dtype(&self) -> DType {
        match self.storage {
            Storage::F32(_) => DType::F32,
            Storage::F16(_) => DType::F16,
            Storage::BF16(_) => DType::BF16,
            Storage::U32(_) => DType::U32,
        }
    }

    fn device(&self) -> DeviceId {
        self.device
    }
}

impl CpuTensor {
    pub(crate) fn zeros(
        shape: &[usize],
        dtype: DType,
        device: DeviceId,
        lease: impl FnOnce(usize) -> Result<Lease>,
    ) -> Result<Self> {
        let bytes = tensor_bytes(shape, dtype)?;
        let lease = lease(bytes)?;
        let n = bytes / dtype.block_bytes() * dtype.block_elements();
        let storage = match dtype {
            DType::F32 => Storage::F32(vec![0.0; n]),
            DType::F16 => Storage::F16(vec![f16::ZERO; n]),
            DType::BF16 => Storage::BF16(vec![bf16::ZERO; n]),
            DType::U32 => Storage::U32(vec![0; n]),
            got => {
                return Err(Error::DType {
                    op: "alloc",
                    operand: "dtype",
                    expected: "f32, f16, bf16 or u32",
                    got,
                });
            }
        };
        Ok(Self { storage, shape: shape.to_vec(), device, _lease: lease })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::F32(v) => bytemuck::cast_slice(v),
            Storage::F16(v) => bytemuck::cast_slice(v),
            Storage::BF16(v) => bytemuck::cast_slice(v),
            Storage::U32(v) => bytemuck::cast_slice(v),
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.storage {
            Storage::F32(v) => bytemuck::cast_slice_mut(v),
            Storage::F16(v) => bytemuck::cast_slice_mut(v),
            Storage::BF16(v) => bytemuck::cast_slice_mut(v),
            Storage::U32(v) => bytemuck::cast_slice_mut(v),
        }
    }

    pub(crate) fn storage_mut(&mut self) -> &mut Storage {
        &mut self.storage
    }
}

/// Elements that rowwise operations widen at a time, if a row is no longer.
const WIDENED: usize = 1 << 20;

/// Elements that elementwise operations widen at a time.
const BLOCK: usize = 1 << 12;

/// A window of floats in the type it is stored in.
pub(crate) enum Floats<'a> {
    F32(Rows<'a, f32>),
    F16(Rows<'a, f16>),
    BF16(Rows<'a, bf16>),
}

/// Runs `$body` with `$rows` as the typed rows of a window of floats.
macro_rules! with_floats {
    ($floats:expr, $rows:ident => $body:expr) => {
        match $floats {
            $crate::tensor::Floats::F32($rows) => $body,
            $crate::tensor::Floats::F16($rows) => $body,
            $crate::tensor::Floats::BF16($rows) => $body,
        }
    };
}
pub(crate) use with_floats;

/// A window of floats to write.
pub(crate) enum FloatsMut<'a> {
    F32(RowsMut<'a, f32>),
    F16(RowsMut<'a, f16>),
    BF16(RowsMut<'a, bf16>),
}

/// Checks proved that the window lies inside, so these errors mean a defect of this workspace.
fn outside(window: Window) -> Error {
    let got = vec![window.rows, window.cols];
    Error::Shape { op: "window", operand: "tensor", expected: vec![window.offset, window.stride], got }
}

fn not_float(got: DType) -> Error {
    Error::DType { op: "window", operand: "tensor", expected: "a float type", got }
}

/// The part of `data` that a window spans, and the step between its rows; a window without elements spans nothing.
fn span(w: Window) -> (Range<usize>, usize) {
    if w.extent() == 0 { (0..0, w.cols) } else { (w.offset..w.offset + w.extent(), w.stride) }
}

fn rows<T>(data: &[T], w: Window) -> Result<Rows<'_, T>> {
    let (range, stride) = span(w);
    data.get(range).and_then(|d| Rows::new(d, w.rows, w.cols, stride)).ok_or_else(|| outside(w))
}

fn rows_mut<T>(data: &mut [T], w: Window) -> Result<RowsMut<'_, T>> {
    let (range, stride) = span(w);
    data.get_mut(range).and_then(|d| RowsMut::new(d, w.rows, w.cols, stride)).ok_or_else(|| outside(w))
}

/// The typed rows of a window.
pub(crate) fn floats<'a>(m: Mat<'a, CpuTensor>) -> Result<Floats<'a>> {
    let w = m.window();
    Ok(match &m.tensor().storage {
        Storage::F32(v) => Floats::F32(rows(v, w)?),
        Storage::F16(v) => Floats::F16(rows(v, w)?),
        Storage::BF16(v) => Floats::BF16(rows(v, w)?),
        Storage::U32(_) => return Err(not_float(DType::U32)),
    })
}

/// The typed rows of a window to write.
pub(crate) fn floats_mut<'a>(m: MatMut<'a, CpuTensor>) -> Result<FloatsMut<'a>> {
    let w = m.window();
    Ok(match &mut m.into_tensor().storage {
        Storage::F32(v) => FloatsMut::F32(rows_mut(v, w)?),
        Storage::F16(v) => FloatsMut::F16(rows_mut(v, w)?),
        Storage::BF16(v) => FloatsMut::BF16(rows_mut(v, w)?),
        Storage::U32(_) => return Err(not_float(DType::U32)),
    })
}

/// The integers of a window.
pub(crate) fn integers<'a>(m: Mat<'a, CpuTensor>) -> Result<Rows<'a, u32>> {
    match &m.tensor().storage {
        Storage::U32(v) => rows(v, m.window()),
        _ => Err(Error::DType { op: "window", operand: "tensor", expected: "u32", got: m.operand().dtype }),
    }
}

/// The integers of a window to write.
pub(crate) fn integers_mut<'a>(m: MatMut<'a, CpuTensor>) -> Result<RowsMut<'a, u32>> {
    let (w, got) = (m.window(), m.operand().dtype);
    match &mut m.into_tensor().storage {
        Storage::U32(v) => rows_mut(v, w),
        _ => Err(Error::DType { op: "window", operand: "tensor", expected: "u32", got }),
    }
}

/// A window of floats as f32: borrowed where it is stored so, else widened.
pub(crate) struct Widened<'a> {
    data: Cow<'a, [f32]>,
    shape: (usize, usize, usize),
}

impl<'a> Widened<'a> {
    pub(crate) fn new(m: Mat<'a, CpuTensor>) -> Result<Self> {
        Ok(match floats(m)? {
            Floats::F32(r) => Self { data: Cow::Borrowed(r.data()), shape: (r.rows(), r.cols(), r.stride()) },
            Floats::F16(r) => Self::widen(r),
            Floats::BF16(r) => Self::widen(r),
        })
    }

    fn widen<T: Element>(r: Rows<'_, T>) -> Self {
        let mut data = vec![0.0; r.rows() * r.cols()];
        for (i, row) in data.chunks_mut(r.cols().max(1)).enumerate() {
            widen(r.row(i), row);
        }
        Self { data: Cow::Owned(data), shape: (r.rows(), r.cols(), r.cols()) }
    }

    pub(crate) fn rows(&self) -> Result<Rows<'_, f32>> {
        let (rows, cols, stride) = self.shape;
        let window = Window { offset: 0, rows, cols, stride };
        Rows::new(&self.data, rows, cols, stride).ok_or_else(|| outside(window))
    }
}

/// Runs `f` on the window as f32 and stores what it leaves. With `keep`, `f` sees the window's contents; without, it must
/// write everything.
pub(crate) fn update(
    m: MatMut<'_, CpuTensor>,
    keep: bool,
    f: impl FnOnce(RowsMut<'_, f32>) -> Result<()>,
) -> Result<()> {
    match floats_mut(m)? {
        FloatsMut::F32(rows) => f(rows),
        FloatsMut::F16(rows) => through_f32(rows, keep, f),
        FloatsMut::BF16(rows) => through_f32(rows, keep, f),
    }
}

fn through_f32<T: Element>(
    mut out: RowsMut<'_, T>,
    keep: bool,
    f: impl FnOnce(RowsMut<'_, f32>) -> Result<()>,
) -> Result<()> {
    let (rows, cols) = (out.rows(), out.cols());
    let mut data = vec![0.0; rows * cols];
    if keep {
        for (i, row) in data.chunks_mut(cols.max(1)).enumerate() {
            widen(out.row(i), row);
        }
    }
    let window = Window { offset: 0, rows, cols, stride: cols };
    f(RowsMut::contiguous(&mut data, rows, cols).ok_or_else(|| outside(window))?)?;
    for (i, row) in data.chunks(cols.max(1)).enumerate() {
        narrow(row, out.row(i));
    }
    Ok(())
}

/// Runs an operation that works on whole rows in place: `f` sees the input in the window of the output, a block of rows at a
/// time where they must be widened, with the number of the block's first row.
pub(crate) fn rowwise(io: Io<'_, CpuTensor>, f: impl Fn(usize, RowsMut<'_, f32>)) -> Result<()> {
    let (x, out) = match io {
        Io::InPlace(out) => (None, out),
        Io::Into(x, out) => (Some(floats(x)?), out),
    };
    let fill = |first: usize, mut block: RowsMut<'_, f32>| {
        if let Some(x) = &x {
            (0..block.rows()).for_each(|i| x.widen_part(first + i, 0, block.row(i)));
        }
        f(first, block);
    };
    match floats_mut(out)? {
        FloatsMut::F32(rows) => fill(0, rows),
        FloatsMut::F16(rows) => in_blocks(rows, x.is_none(), fill),
        FloatsMut::BF16(rows) => in_blocks(rows, x.is_none(), fill),
    }
    Ok(())
}

fn in_blocks<T: Element>(mut out: RowsMut<'_, T>, keep: bool, f: impl Fn(usize, RowsMut<'_, f32>)) {
    let (rows, cols) = (out.rows(), out.cols());
    let height = (WIDENED / cols.max(1)).clamp(1, rows.max(1));
    let mut data = vec![0.0; height * cols];
    for first in (0..rows).step_by(height) {
        let count = height.min(rows - first);
        if keep {
            data.chunks_mut(cols.max(1))
                .enumerate()
                .take(count)
                .for_each(|(i, row)| widen(out.row(first + i), row));
        }
        if let Some(block) = RowsMut::contiguous(&mut data, count, cols) {
            f(first, block);
        }
        data.chunks(cols.max(1)).enumerate().take(count).for_each(|(i, row)| narrow(row, out.row(first + i)));
    }
}

/// Runs `f(x, y)`, which leaves its result in `x`, on blocks of elements; without `y` it sees zeros.
pub(crate) fn elementwise(
    io: Io<'_, CpuTensor>,
    y: Option<Mat<'_, CpuTensor>>,
    f: impl Fn(&mut [f32], &[f32]) + Send + Sync,
) -> Result<()> {
    let y = y.map(floats).transpose()?;
    let (x, out) = match io {
        Io::InPlace(out) => (None, out),
        Io::Into(x, out) => (Some(floats(x)?), out),
    };
    match floats_mut(out)? {
        FloatsMut::F32(out) => element_blocks(x, y, out, f),
        FloatsMut::F16(out) => element_blocks(x, y, out, f),
        FloatsMut::BF16(out) => element_blocks(x, y, out, f),
    }
    Ok(())
}

fn element_blocks<T: Element>(
    x: Option<Floats<'_>>,
    y: Option<Floats<'_>>,
    out: RowsMut<'_, T>,
    f: impl Fn(&mut [f32], &[f32]) + Send + Sync,
) {
    let blocks = out.into_rows().enumerate().flat_map(|(row, values)| {
        values.chunks_mut(BLOCK).enumerate().map(move |(i, part)| (row, i * BLOCK, part))
    });
    let run = |(row, first, part): (usize, usize, &mut [T])| {
        let (mut a, mut b) = ([0.0; BLOCK], [0.0; BLOCK]);
        let (a, b) = (&mut a[..part.len()], &mut b[..part.len()]);
        match &x {
            Some(x) => x.widen_part(row, first, a),
            None => widen(part, a),
        }
        if let Some(y) = &y {
            y.widen_part(row, first, b);
        }
        f(a, b);
        narrow(a, part);
    };
    let blocks: Vec<_> = blocks.collect();
    if blocks.len() < 4 {
        return blocks.into_iter().for_each(run);
    }
    blocks.into_par_iter().with_min_len(4).for_each(run);
}

/// Copies between float types, rounding to nearest even.
pub(crate) fn copy<A: Element, B: Element>(from: &[A], to: &mut [B]) {
    for (a, b) in from.iter().zip(to) {
        *b = B::from_f32(a.to_f32());
    }
}

impl Floats<'_> {
    /// Whether both are stored in the same type.
    pub(crate) fn same_type(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Columns `first..` of a row as f32, as many as `to` takes.
    fn widen_part(&self, row: usize, first: usize, to: &mut [f32]) {
        with_floats!(self, rows => {
            let from = part(rows.row(row), first..first + to.len());
            widen(from, to);
        });
    }
}
