//! Products with many rows of activations: the weights are widened and packed a tile at a time, and arithmetic
//! sets the pace.

use rayon::prelude::*;

use super::element::Element;
use super::lanes::{Kernel, Lanes, dispatch};
use super::matvec::matmul_few;
use super::part::part_mut;
use super::rows::{ColumnTile, Rows, RowsMut};
use super::scratch::with_scratch;
use super::tile::{Blocks, multiply, pack_plain, pack_transposed, panel_width, panels_len};

/// Columns of the output that a task computes at most.
const TILE: usize = 256;
/// Depth of a packed tile of weights: `TILE · DEPTH` values stay in a second-level cache.
const DEPTH: usize = 512;
/// Values of `x` that are packed at a time.
const PACKED: usize = 1 << 20;

/// `out[m, n] = Σ_k x[m, k] · w[n, k]`, added to `out` when `accumulate`; x `[m, k]`, w `[n, k]`, out `[m, n]`.
///
/// Sums run in ascending `k`, in pieces of 512, in `f32`.
pub(crate) fn matmul_many<W: Element>(
    x: Rows<'_, f32>,
    w: Rows<'_, W>,
    out: RowsMut<'_, f32>,
    accumulate: bool,
) {
    debug_assert_eq!((x.rows(), w.rows(), x.cols()), (out.rows(), out.cols(), w.cols()));
    product(x, w, Layout::Transposed, out, accumulate);
}

/// `out[m, n] = Σ_k x[m, k] · w[k, n]`, added to `out` when `accumulate`; x `[m, k]`, w `[k, n]`, out `[m, n]`.
pub(crate) fn matmul_plain<W: Element>(
    x: Rows<'_, f32>,
    w: Rows<'_, W>,
    out: RowsMut<'_, f32>,
    accumulate: bool,
) {
    debug_assert_eq!((x.rows(), w.cols(), x.cols()), (out.rows(), out.cols(), w.rows()));
    product(x, w, Layout::Plain, out, accumulate);
}

/// [`matmul_few`] or [`matmul_many`], whichever is faster for the number of rows.
pub(crate) fn matmul<W: Element>(x: Rows<'_, f32>, w: Rows<'_, W>, out: RowsMut<'_, f32>, accumulate: bool) {
    if x.rows() < MANY { matmul_few(x, w, out, accumulate) } else { matmul_many(x, w, out, accumulate) }
}

/// Rows from which packing the weights pays.
const MANY: usize = 18;

/// How the weights lie.
#[derive(Clone, Copy, Debug)]
enum Layout {
    /// `[n, k]`
    Transposed,
    /// `[k, n]`
    Plain,
}

fn product<W: Element>(
    x: Rows<'_, f32>,
    w: Rows<'_, W>,
    layout: Layout,
    mut out: RowsMut<'_, f32>,
    accumulate: bool,
) {
    let (m, n, k) = (x.rows(), out.cols(), x.cols());
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            (0..m).for_each(|i| out.row(i).fill(0.0));
        }
        return;
    }
    let (blocks, panel) = dispatch(Plan(m));
    let depth = (PACKED / m).max(1).next_multiple_of(DEPTH).min(k);
    let width = n.div_ceil(4 * rayon::current_num_threads()).next_multiple_of(panel).min(TILE);
    with_scratch(blocks.len(depth), |packed| {
        for from in (0..k).step_by(depth) {
            let x = x.columns(from..from + depth);
            let packed = part_mut(packed, ..blocks.len(x.cols()));
            pack_pieces(blocks, x, packed);
            let job =
                Job { blocks, x: packed, w, layout, from, k: x.cols(), accumulate: accumulate || from > 0 };
            let tiles = out.reborrow().into_column_tiles(width);
            tiles.into_par_iter().with_max_len(1).for_each(|tile| {
                with_scratch(width * DEPTH.min(x.cols()), |packed| dispatch(Task { job, packed, tile }));
            });
        }
    });
}

/// Packs `x` in pieces of [`DEPTH`] columns, each of them block after block.
fn pack_pieces(blocks: Blocks, x: Rows<'_, f32>, packed: &mut [f32]) {
    let piece_len = blocks.len(DEPTH);
    packed.chunks_mut(piece_len.max(1)).enumerate().for_each(|(p, piece)| {
        let x = x.columns(p * DEPTH..(p + 1) * DEPTH);
        let block_len = (piece.len() / blocks.count()).max(1);
        piece
            .par_chunks_mut(block_len)
            .enumerate()
            .with_min_len(4)
            .for_each(|(i, block)| blocks.pack(x, i, block));
    });
}

struct Plan(usize);

impl Kernel for Plan {
    type Output = (Blocks, usize);

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) -> (Blocks, usize) {
        (Blocks::new::<S>(self.0), panel_width::<S>())
    }
}

/// What all tiles of a product share.
struct Job<'a, W> {
    blocks: Blocks,
    x: &'a [f32],
    w: Rows<'a, W>,
    layout: Layout,
    /// Where the packed part of `x` begins, and how deep it is.
    from: usize,
    k: usize,
    accumulate: bool,
}

impl<W> Clone for Job<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Job<'_, W> {}

struct Task<'a, W> {
    job: Job<'a, W>,
    packed: &'a mut [f32],
    tile: ColumnTile<'a, f32>,
}

impl<W: Element> Kernel for Task<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { job, packed, mut tile } = self;
        let width = tile.rows.first().map_or(0, |row| row.len());
        let columns = tile.start..tile.start + width;
        for (p, x) in job.x.chunks(job.blocks.len(DEPTH).max(1)).enumerate() {
            let depth = DEPTH.min(job.k - p * DEPTH);
            let start = job.from + p * DEPTH;
            let packed = part_mut(packed, ..panels_len::<S>(width, depth));
            match job.layout {
                Layout::Transposed => {
                    let w = job.w.slice(columns.clone()).columns(start..start + depth);
                    pack_transposed(simd, w, packed);
                }
                Layout::Plain => {
                    let w = job.w.slice(start..start + depth).columns(columns.clone());
                    pack_plain(simd, w, packed);
                }
            }
            multiply(simd, job.blocks, x, packed, depth, &mut tile, job.accumulate || p > 0);
        }
    }
}
