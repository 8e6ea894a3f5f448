//! Strided matrices over slices.

use std::ops::Range;

use super::part::{part, part_mut};

/// A matrix to read: row `i` is `data[i * stride..][..cols]`. The last row may end where the data ends.
#[derive(Debug)]
pub(crate) struct Rows<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<T> Clone for Rows<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Rows<'_, T> {}

/// A matrix to write, laid out as [`Rows`].
#[derive(Debug)]
pub(crate) struct RowsMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

/// The number of elements from the first to the last of a matrix, if it is a valid one.
fn extent(rows: usize, cols: usize, stride: usize) -> Option<usize> {
    match rows.checked_sub(1) {
        None => Some(0),
        Some(last) if stride >= cols || last == 0 => last.checked_mul(stride)?.checked_add(cols),
        Some(_) => None,
    }
}

impl<'a, T> Rows<'a, T> {
    /// `None` when `data` is too short, or when rows overlap.
    pub(crate) fn new(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Option<Self> {
        (extent(rows, cols, stride)? <= data.len()).then_some(Self { data, rows, cols, stride })
    }

    /// Rows that follow each other without a gap.
    pub(crate) fn contiguous(data: &'a [T], rows: usize, cols: usize) -> Option<Self> {
        Self::new(data, rows, cols, cols)
    }

    /// The number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from the start of one row to the start of the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Everything from the first row on, gaps included.
    pub(crate) fn data(&self) -> &'a [T] {
        self.data
    }

    /// Row `i`; empty beyond the end.
    #[inline(always)]
    pub(crate) fn row(&self, i: usize) -> &'a [T] {
        // No overflow: `new` has checked the end of the last row.
        if i < self.rows { part(part(self.data, i * self.stride..), ..self.cols) } else { &[] }
    }

    /// The rows of `range`, cut at the end of the matrix.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        let end = range.end.min(self.rows);
        let start = range.start.min(end);
        // Without rows it may start beyond the end.
        let data = part(self.data, start.saturating_mul(self.stride).min(self.data.len())..);
        Self { data, rows: end - start, cols: self.cols, stride: self.stride }
    }

    /// The columns of `range`, cut at the last column.
    pub(crate) fn columns(&self, range: Range<usize>) -> Self {
        let end = range.end.min(self.cols);
        let start = range.start.min(end);
        let data = part(self.data, start.min(self.data.len())..);
        Self { data, rows: self.rows, cols: end - start, stride: self.stride }
    }

    /// Row `first` and every `step`-th one after it.
    pub(crate) fn every(&self, step: usize, first: usize) -> Self {
        let rest = self.slice(first..self.rows);
        let (rows, stride) = spread(rest.rows, self.stride, step);
        Self { rows, stride, ..rest }
    }
}

/// The number of rows, and the step between them, when only every `step`-th row is taken.
fn spread(rows: usize, stride: usize, step: usize) -> (usize, usize) {
    (rows.div_ceil(step.max(1)), stride.saturating_mul(step.max(1)))
}

impl<'a, T> RowsMut<'a, T> {
    /// `None` when `data` is too short, or when rows overlap.
    pub(crate) fn new(data: &'a mut [T], rows: usize, cols: usize, stride: usize) -> Option<Self> {
        (extent(rows, cols, stride)? <= data.len()).then_some(Self { data, rows, cols, stride })
    }

    /// Rows that follow each other without a gap.
    pub(crate) fn contiguous(data: &'a mut [T], rows: usize, cols: usize) -> Option<Self> {
        Self::new(data, rows, cols, cols)
    }

    /// The number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Row `i`; empty beyond the end.
    #[inline(always)]
    pub(crate) fn row(&mut self, i: usize) -> &mut [T] {
        if i < self.rows { part_mut(part_mut(self.data, i * self.stride..), ..self.cols) } else { &mut [] }
    }

    /// The rows of `range`, cut at the end of the matrix.
    pub(crate) fn slice(&mut self, range: Range<usize>) -> RowsMut<'_, T> {
        let end = range.end.min(self.rows);
        let start = range.start.min(end);
        let len = self.data.len();
        let data = part_mut(self.data, start.saturating_mul(self.stride).min(len)..);
        RowsMut { data, rows: end - start, cols: self.cols, stride: self.stride }
    }

    /// The columns of `range`, cut at the last column.
    pub(crate) fn columns(&mut self, range: Range<usize>) -> RowsMut<'_, T> {
        let end = range.end.min(self.cols);
        let start = range.start.min(end);
        let len = self.data.len();
        let data = part_mut(self.data, start.min(len)..);
        RowsMut { data, rows: self.rows, cols: end - start, stride: self.stride }
    }

    /// Row `first` and every `step`-th one after it.
    pub(crate) fn every(&mut self, step: usize, first: usize) -> RowsMut<'_, T> {
        let end = self.rows;
        let rest = self.slice(first..end);
        let (rows, stride) = spread(rest.rows, rest.stride, step);
        RowsMut { rows, stride, ..rest }
    }

    /// The same matrix for a shorter time.
    pub(crate) fn reborrow(&mut self) -> RowsMut<'_, T> {
        RowsMut { data: self.data, rows: self.rows, cols: self.cols, stride: self.stride }
    }

    /// The first `at` rows and the rest; `at` beyond the end leaves the rest empty.
    pub(crate) fn split_rows_at(self, at: usize) -> (Self, Self) {
        let Self { data, rows, cols, stride } = self;
        let at = at.min(rows);
        let (head, tail) = data.split_at_mut(at.saturating_mul(stride).min(data.len()));
        (Self { data: head, rows: at, cols, stride }, Self { data: tail, rows: rows - at, cols, stride })
    }

    /// All rows as separate slices.
    pub(crate) fn into_rows(self) -> impl Iterator<Item = &'a mut [T]> {
        let Self { data, rows, cols, stride } = self;
        let mut rest = data;
        (0..rows).map(move |_| {
            let all = std::mem::take(&mut rest);
            let (row, tail) = all.split_at_mut(stride.min(all.len()));
            rest = tail;
            part_mut(row, ..cols)
        })
    }
}

/// Neighbouring columns of an output, all rows of them.
#[derive(Debug)]
pub(crate) struct ColumnTile<'a, T> {
    /// The first column.
    pub(crate) start: usize,
    /// The tile's part of each row.
    pub(crate) rows: Vec<&'a mut [T]>,
}

impl<'a, T> RowsMut<'a, T> {
    /// Cuts the matrix into tiles of `width` columns (the last may be narrower), so that threads can write them.
    pub(crate) fn into_column_tiles(self, width: usize) -> Vec<ColumnTile<'a, T>> {
        let width = width.max(1);
        let (rows, cols) = (self.rows, self.cols);
        let tile = |i| ColumnTile { start: i * width, rows: Vec::with_capacity(rows) };
        let mut tiles: Vec<_> = (0..cols.div_ceil(width)).map(tile).collect();
        for row in self.into_rows() {
            for (tile, part) in tiles.iter_mut().zip(row.chunks_mut(width)) {
                tile.rows.push(part);
            }
        }
        tiles
    }
}
