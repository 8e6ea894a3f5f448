//! Products of packed tiles, the core of everything that computes more than it reads.
//!
//! The left operand is packed into blocks of a few rows, `[k][rows]`, the right one into panels of two vectors of
//! columns, `[k][2 · lanes]`, both padded with zeros. A block times a panel stays in registers over all of `k`.

use super::element::Element;
use super::lanes::Lanes;
use super::part::part_mut;
use super::rows::{ColumnTile, Rows};

/// Rows of a block at most.
const MAX_BLOCK: usize = 14;

/// Where a product goes.
pub(crate) trait Output {
    /// What there is of row `i` in panel `panel`, which is `width` columns wide: the last panel may have less.
    fn part(&mut self, i: usize, panel: usize, width: usize) -> &mut [f32];
}

impl Output for ColumnTile<'_, f32> {
    #[inline(always)]
    fn part(&mut self, i: usize, panel: usize, width: usize) -> &mut [f32] {
        debug_assert!(i < self.rows.len(), "row {i} of {}", self.rows.len());
        self.rows.get_mut(i).map_or(&mut [], |row| part_mut(row, panel * width..))
    }
}

/// An output that is itself packed: panels of `rows` rows.
pub(crate) struct Panels<'a> {
    /// `[panel][rows][width]`
    pub(crate) data: &'a mut [f32],
    /// Rows of each panel.
    pub(crate) rows: usize,
}

impl Output for Panels<'_> {
    #[inline(always)]
    fn part(&mut self, i: usize, panel: usize, width: usize) -> &mut [f32] {
        let start = (panel * self.rows + i) * width;
        part_mut(self.data, start..start + width)
    }
}

/// How `rows` rows are cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    rows: usize,
    per_block: usize,
}

impl Blocks {
    /// Blocks of an equal, even number of rows that the registers of the level hold.
    pub(crate) fn new<S: Lanes>(rows: usize) -> Self {
        let most = if S::REGISTER_COUNT >= 32 { MAX_BLOCK } else { 6 };
        let blocks = rows.div_ceil(most).max(1);
        Self { rows, per_block: rows.div_ceil(blocks).next_multiple_of(2).clamp(2, MAX_BLOCK) }
    }

    /// Values that the packed operand takes for a depth of `k`.
    pub(crate) fn len(self, k: usize) -> usize {
        self.count() * self.per_block * k
    }

    /// The number of blocks.
    pub(crate) fn count(self) -> usize {
        self.rows.div_ceil(self.per_block)
    }

    /// Packs block `index` of `x`.
    pub(crate) fn pack(self, x: Rows<'_, f32>, index: usize, packed: &mut [f32]) {
        let x = x.slice(index * self.per_block..(index + 1) * self.per_block);
        for r in 0..self.per_block {
            let to = packed.iter_mut().skip(r).step_by(self.per_block);
            if r < x.rows() {
                to.zip(x.row(r)).for_each(|(t, &v)| *t = v);
            } else {
                to.for_each(|t| *t = 0.0);
            }
        }
    }

    /// Packs the columns of `x` `[k, rows]` as rows, block after block.
    pub(crate) fn pack_columns(self, x: Rows<'_, f32>, packed: &mut [f32]) {
        let len = self.per_block * x.rows();
        for (i, block) in packed.chunks_exact_mut(len.max(1)).enumerate().take(self.count()) {
            let x = x.columns(i * self.per_block..(i + 1) * self.per_block);
            for (k, to) in block.chunks_exact_mut(self.per_block).enumerate() {
                let (values, padding) = to.split_at_mut(x.cols());
                values.copy_from_slice(x.row(k));
                padding.fill(0.0);
            }
        }
    }

    /// Packs all of `x`, block after block.
    pub(crate) fn pack_all(self, x: Rows<'_, f32>, packed: &mut [f32]) {
        let len = self.per_block * x.cols();
        for (i, block) in packed.chunks_exact_mut(len.max(1)).enumerate().take(self.count()) {
            self.pack(x, i, block);
        }
    }
}

/// Columns of a panel.
pub(crate) const fn panel_width<S: Lanes>() -> usize {
    2 * S::F32_LANES
}

/// Values that `columns` columns of depth `k` take when packed.
pub(crate) fn panels_len<S: Lanes>(columns: usize, k: usize) -> usize {
    columns.next_multiple_of(panel_width::<S>()) * k
}

/// Packs the rows of `w` as columns: `packed` holds wᵀ.
#[inline(always)]
pub(crate) fn pack_transposed<S: Lanes, W: Element>(simd: S, w: Rows<'_, W>, packed: &mut [f32]) {
    let (lanes, k) = (S::F32_LANES, w.cols());
    for (p, panel) in packed.chunks_exact_mut((panel_width::<S>() * k).max(1)).enumerate() {
        let (panel, _) = S::as_mut_simd_f32s(panel);
        let (panel, _) = panel.as_chunks_mut::<2>();
        for half in 0..2 {
            let rows = w.slice((2 * p + half) * lanes..(2 * p + half + 1) * lanes);
            for (c, steps) in panel.chunks_mut(lanes).enumerate() {
                let mut square = simd.zero_square();
                for (i, vector) in square.as_mut().iter_mut().enumerate().take(rows.rows()) {
                    let row = rows.row(i);
                    let (head, tail) = W::packed::<S>(row);
                    *vector = match head.get(c) {
                        Some(&v) => W::widen(simd, v),
                        None => W::widen(simd, W::partial(simd, tail)),
                    };
                }
                let mut columns = simd.transpose(square);
                for (step, &column) in steps.iter_mut().zip(columns.as_mut().iter()) {
                    step[half] = column;
                }
            }
        }
    }
}

/// Packs `w` `[k, n]` as it lies.
#[inline(always)]
pub(crate) fn pack_plain<S: Lanes, W: Element>(simd: S, w: Rows<'_, W>, packed: &mut [f32]) {
    let (width, k) = (panel_width::<S>(), w.rows());
    for (p, panel) in packed.chunks_exact_mut((width * k).max(1)).enumerate() {
        let columns = w.columns(p * width..(p + 1) * width);
        let (panel, _) = S::as_mut_simd_f32s(panel);
        for (i, step) in panel.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let (head, tail) = W::packed::<S>(columns.row(i));
            for (j, vector) in step.iter_mut().enumerate() {
                *vector = match head.get(j) {
                    Some(&v) => W::widen(simd, v),
                    None if j == head.len() => W::widen(simd, W::partial(simd, tail)),
                    None => simd.splat_f32s(0.0),
                };
            }
        }
    }
}

/// `out[i, j] = Σ_k x[i, k] · w[k, j]`, added to `out` when `accumulate`, for packed operands of depth `k`.
#[inline(always)]
pub(crate) fn multiply<S: Lanes>(
    simd: S,
    blocks: Blocks,
    x: &[f32],
    w: &[f32],
    k: usize,
    out: &mut impl Output,
    accumulate: bool,
) {
    match blocks.per_block {
        2 => blocked::<S, 2>(simd, blocks.rows, x, w, k, out, accumulate),
        4 => blocked::<S, 4>(simd, blocks.rows, x, w, k, out, accumulate),
        6 => blocked::<S, 6>(simd, blocks.rows, x, w, k, out, accumulate),
        8 => blocked::<S, 8>(simd, blocks.rows, x, w, k, out, accumulate),
        10 => blocked::<S, 10>(simd, blocks.rows, x, w, k, out, accumulate),
        12 => blocked::<S, 12>(simd, blocks.rows, x, w, k, out, accumulate),
        _ => blocked::<S, MAX_BLOCK>(simd, blocks.rows, x, w, k, out, accumulate),
    }
}

#[inline(always)]
fn blocked<S: Lanes, const R: usize>(
    simd: S,
    rows: usize,
    x: &[f32],
    w: &[f32],
    k: usize,
    out: &mut impl Output,
    accumulate: bool,
) {
    let width = panel_width::<S>();
    for (i, block) in x.chunks_exact((R * k).max(1)).enumerate() {
        let (block, _) = block.as_chunks::<R>();
        for (j, panel) in w.chunks_exact((width * k).max(1)).enumerate() {
            let (panel, _) = S::as_simd_f32s(panel);
            let sums = block_times_panel::<S, R>(simd, block, panel.as_chunks::<2>().0);
            for (r, sums) in sums.iter().enumerate().take(rows.saturating_sub(i * R)) {
                store(simd, out.part(i * R + r, j, width), sums, accumulate);
            }
        }
    }
}

#[inline(always)]
fn block_times_panel<S: Lanes, const R: usize>(
    simd: S,
    x: &[[f32; R]],
    w: &[[S::f32s; 2]],
) -> [[S::f32s; 2]; R] {
    let mut sums = [[simd.splat_f32s(0.0); 2]; R];
    for (x, &[a, b]) in x.iter().zip(w) {
        for r in 0..R {
            let factor = simd.splat_f32s(x[r]);
            sums[r][0] = simd.fma(factor, a, sums[r][0]);
            sums[r][1] = simd.fma(factor, b, sums[r][1]);
        }
    }
    sums
}

/// Writes two vectors, or as much of them as `row` holds.
#[inline(always)]
fn store<S: Lanes>(simd: S, row: &mut [f32], sums: &[S::f32s; 2], accumulate: bool) {
    let (whole, part) = S::as_mut_simd_f32s(row);
    for (to, &sum) in whole.iter_mut().zip(sums) {
        *to = if accumulate { simd.add_f32s(*to, sum) } else { sum };
    }
    if let Some(&sum) = sums.get(whole.len()) {
        let sum = if accumulate { simd.add_f32s(simd.partial_load_f32s(part), sum) } else { sum };
        simd.partial_store_f32s(part, sum);
    }
}
