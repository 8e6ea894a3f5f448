//! Windows: the rows and columns of a tensor that an operation reads or writes.

use std::ops::Range;

use crate::{DType, DeviceId, DeviceTensor, Error, Result};

/// Rows × cols inside a tensor's memory; `offset` and `stride` (from one row to the next) in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First element.
    pub offset: usize,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
    /// Elements from one row's start to the next one's; at least `cols`.
    pub stride: usize,
}

impl Window {
    /// The whole of a tensor: all but the last dimension are rows. A scalar is 1 × 1.
    pub fn whole(shape: &[usize]) -> Self {
        let cols = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().rev().skip(1).product();
        Self { offset: 0, rows, cols, stride: cols }
    }

    /// Elements of the window.
    pub fn elements(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether its rows follow each other without gaps.
    pub fn is_contiguous(&self) -> bool {
        self.rows <= 1 || self.stride == self.cols
    }

    /// Elements from the first to the last, gaps between rows included.
    pub fn extent(&self) -> usize {
        if self.rows == 0 || self.cols == 0 { 0 } else { (self.rows - 1) * self.stride + self.cols }
    }

    fn sub(&self, rows: Range<usize>, cols: Range<usize>) -> Result<Self> {
        let inside = |r: &Range<usize>, len: usize| r.start <= r.end && r.end <= len;
        if !inside(&rows, self.rows) || !inside(&cols, self.cols) {
            return Err(Error::Shape {
                op: "window",
                operand: "range",
                expected: vec![self.rows, self.cols],
                got: vec![rows.end, cols.end],
            });
        }
        let offset = self.offset + rows.start * self.stride + cols.start;
        Ok(Self { offset, rows: rows.len(), cols: cols.len(), stride: self.stride })
    }

    fn reshaped(&self, rows: usize, cols: usize) -> Result<Self> {
        if !self.is_contiguous() || rows.checked_mul(cols) != Some(self.elements()) {
            return Err(Error::Shape {
                op: "window",
                operand: "reshaped",
                expected: vec![self.rows, self.cols],
                got: vec![rows, cols],
            });
        }
        Ok(Self { offset: self.offset, rows, cols, stride: cols })
    }
}

/// What checks need to know of an operand.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Where in its tensor it lies.
    pub window: Window,
    /// Type of its elements.
    pub dtype: DType,
    /// Device of its tensor.
    pub device: DeviceId,
}

impl Operand {
    /// Bytes that the window's elements take, gaps left out.
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes(self.window.elements()).unwrap_or(usize::MAX) as u64
    }
}

/// A window that is read.
#[derive(Debug)]
pub struct Mat<'a, T> {
    tensor: &'a T,
    window: Window,
}

impl<T> Clone for Mat<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Mat<'_, T> {}

/// A window that is written. There is only one at a time of a tensor: the borrow checker proves that operations do
/// not alias.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    tensor: &'a mut T,
    window: Window,
}

impl<'a, T> Mat<'a, T> {
    /// The tensor that the window lies in.
    pub fn tensor(&self) -> &'a T {
        self.tensor
    }

    /// Where in the tensor.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.window.rows
    }

    /// Elements of a row.
    pub fn n_cols(&self) -> usize {
        self.window.cols
    }

    /// Some of the rows and columns.
    ///
    /// # Errors
    /// [`Error::Shape`] if a range does not lie inside.
    pub fn sub(self, rows: Range<usize>, cols: Range<usize>) -> Result<Self> {
        Ok(Self { window: self.window.sub(rows, cols)?, ..self })
    }

    /// Some of the rows.
    ///
    /// # Errors
    /// As [`Mat::sub`].
    pub fn rows(self, rows: Range<usize>) -> Result<Self> {
        self.sub(rows, 0..self.window.cols)
    }

    /// Some of the columns.
    ///
    /// # Errors
    /// As [`Mat::sub`].
    pub fn cols(self, cols: Range<usize>) -> Result<Self> {
        self.sub(0..self.window.rows, cols)
    }

    /// The same elements as rows × cols.
    ///
    /// # Errors
    /// [`Error::Shape`] if the counts differ or the window has gaps.
    pub fn reshaped(self, rows: usize, cols: usize) -> Result<Self> {
        Ok(Self { window: self.window.reshaped(rows, cols)?, ..self })
    }

    /// The same window of another tensor: how a facade hands an operation to one of its parts.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn try_map<U>(self, f: impl FnOnce(&'a T) -> Result<&'a U>) -> Result<Mat<'a, U>> {
        Ok(Mat { tensor: f(self.tensor)?, window: self.window })
    }
}

impl<'a, T: DeviceTensor> Mat<'a, T> {
    /// A whole tensor: all dimensions but the last are rows.
    pub fn new(tensor: &'a T) -> Self {
        Self { tensor, window: Window::whole(tensor.shape()) }
    }

    /// A whole tensor as one row.
    pub fn vector(tensor: &'a T) -> Self {
        let cols = tensor.shape().iter().product();
        Self { tensor, window: Window { offset: 0, rows: 1, cols, stride: cols } }
    }

    /// What checks need to know.
    pub fn operand(&self) -> Operand {
        Operand { window: self.window, dtype: self.tensor.dtype(), device: self.tensor.device() }
    }
}

impl<'a, T> MatMut<'a, T> {
    /// The tensor that the window lies in.
    pub fn tensor(&self) -> &T {
        self.tensor
    }

    /// The tensor, to write into it.
    pub fn into_tensor(self) -> &'a mut T {
        self.tensor
    }

    /// Where in the tensor.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.window.rows
    }

    /// Elements of a row.
    pub fn n_cols(&self) -> usize {
        self.window.cols
    }

    /// Some of the rows and columns.
    ///
    /// # Errors
    /// [`Error::Shape`] if a range does not lie inside.
    pub fn sub(self, rows: Range<usize>, cols: Range<usize>) -> Result<Self> {
        Ok(Self { window: self.window.sub(rows, cols)?, tensor: self.tensor })
    }

    /// Some of the rows.
    ///
    /// # Errors
    /// As [`MatMut::sub`].
    pub fn rows(self, rows: Range<usize>) -> Result<Self> {
        let cols = 0..self.window.cols;
        self.sub(rows, cols)
    }

    /// Some of the columns.
    ///
    /// # Errors
    /// As [`MatMut::sub`].
    pub fn cols(self, cols: Range<usize>) -> Result<Self> {
        let rows = 0..self.window.rows;
        self.sub(rows, cols)
    }

    /// The same elements as rows × cols.
    ///
    /// # Errors
    /// [`Error::Shape`] if the counts differ or the window has gaps.
    pub fn reshaped(self, rows: usize, cols: usize) -> Result<Self> {
        Ok(Self { window: self.window.reshaped(rows, cols)?, tensor: self.tensor })
    }

    /// A shorter-lived window of the same place.
    pub fn by_ref(&mut self) -> MatMut<'_, T> {
        MatMut { tensor: self.tensor, window: self.window }
    }

    /// The same place, read.
    pub fn as_mat(&self) -> Mat<'_, T> {
        Mat { tensor: self.tensor, window: self.window }
    }

    /// The same window of another tensor: how a facade hands an operation to one of its parts.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn try_map<U>(self, f: impl FnOnce(&'a mut T) -> Result<&'a mut U>) -> Result<MatMut<'a, U>> {
        Ok(MatMut { tensor: f(self.tensor)?, window: self.window })
    }
}

impl<'a, T: DeviceTensor> MatMut<'a, T> {
    /// A whole tensor: all dimensions but the last are rows.
    pub fn new(tensor: &'a mut T) -> Self {
        let window = Window::whole(tensor.shape());
        Self { tensor, window }
    }

    /// A whole tensor as one row.
    pub fn vector(tensor: &'a mut T) -> Self {
        let cols = tensor.shape().iter().product();
        Self { tensor, window: Window { offset: 0, rows: 1, cols, stride: cols } }
    }

    /// What checks need to know.
    pub fn operand(&self) -> Operand {
        Operand { window: self.window, dtype: self.tensor.dtype(), device: self.tensor.device() }
    }
}

/// Input and output of an elementwise or rowwise operation. In place is a case of its own, since `&x` and `&mut x`
/// cannot meet.
#[derive(Debug)]
pub enum Io<'a, T> {
    /// Reads the first, writes the second.
    Into(Mat<'a, T>, MatMut<'a, T>),
    /// Reads and writes the same window.
    InPlace(MatMut<'a, T>),
}

impl<'a, T> Io<'a, T> {
    /// The window that is read.
    pub fn input(&self) -> Mat<'_, T> {
        match self {
            Self::Into(x, _) => *x,
            Self::InPlace(m) => m.as_mat(),
        }
    }

    /// The window that is written.
    pub fn into_output(self) -> MatMut<'a, T> {
        match self {
            Self::Into(_, out) | Self::InPlace(out) => out,
        }
    }
}

impl<T: DeviceTensor> Io<'_, T> {
    /// What checks need to know of input and output.
    pub fn operands(&self) -> (Operand, Operand) {
        match self {
            Self::Into(x, out) => (x.operand(), out.operand()),
            Self::InPlace(m) => (m.operand(), m.operand()),
        }
    }
}

/// Where in the sequence the rows of an operation stand.
#[derive(Debug)]
pub struct At<'a, T> {
    /// u32 `[1, rows]` on the device: the position of each row. Kernels read these.
    pub positions: Mat<'a, T>,
    /// Position of row 0 where the host knows it; the rows after it follow one by one. Absent while a step is captured.
    pub first: Option<usize>,
    /// Whether the host promises that no two positions are equal, where it does not know the first.
    pub distinct: bool,
}

impl<T> Clone for At<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for At<'_, T> {}

impl<T: DeviceTensor> At<'_, T> {
    /// The positions of some of the rows.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if there are no such rows.
    pub fn rows(self, rows: Range<usize>) -> Result<Self> {
        let first = self.first.map(|first| first.saturating_add(rows.start));
        Ok(Self { positions: self.positions.cols(rows)?, first, ..self })
    }

    /// Whether no two positions are equal, as far as the host knows.
    pub fn is_distinct(&self) -> bool {
        self.distinct || self.first.is_some() || self.positions.n_cols() <= 1
    }
}

impl<T> At<'_, T> {
    /// The position of row 0, for operations that are composed on the host.
    ///
    /// # Errors
    /// [`Error::Captured`] while a step is captured.
    pub fn host_first(&self, op: &'static str) -> Result<usize> {
        self.first.ok_or(Error::Captured { op })
    }
}
