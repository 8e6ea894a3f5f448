//! Tensors of more than 2^31 elements, made on the device and checked at places.
//!
//! All operations but `sample`, which takes no more than 2^22 ids, and the fused ones, which are made of others.

mod heads;
mod long_row;

use std::sync::Mutex;

use backend_api::ops::{
    Add, AppendRows, ApplyRope, Argmax, Embed, Matmul, Mul, RmsNorm, Silu, Softmax, WeightLayout,
};
use backend_api::random::uniform;
use backend_api::{At, DType, DeviceTensor, Io, KernelBackend, Mat, MatMut, Op};

use super::{apply_rope, argmax, matmul, rmsnorm, silu, softmax};
use crate::Failure;
use crate::case::{Case, Run, compare};
use crate::host::{Host, decode, encode, round};
use crate::report::Step;
use crate::tolerance::{Judge, U, Want};
pub(super) use heads::{attention, compute_attention_scores, weighted_sum_rows};

const COLS: usize = 1024;
/// With [`COLS`], 2^31 elements and three rows more.
const ROWS: usize = (1 << 21) + 3;
const ALL: (usize, usize) = (ROWS, COLS);
const DTYPE: DType = DType::BF16;
/// Elements compared at each place.
const SPAN: usize = 64;
const SEED: u64 = 0x2_0000_0001;

/// First elements of the spans that are compared: both ends, around 2^31, and in between.
fn places() -> [usize; 7] {
    let middle = 1usize << 31;
    [0, middle / 2 - 32, middle - SPAN, middle - 32, middle, middle + COLS, ROWS * COLS - SPAN]
}

/// Rows that are compared whole: both ends, around the most blocks of a grid's short sides, and around 2^31 elements.
fn rows(rows: usize, cols: usize) -> [usize; 7] {
    let middle = (1 << 31) / cols;
    [0, 65_535, 65_536, middle - 1, middle, middle + 1, rows - 1]
}

/// One operation at a time: tests run in parallel, and each takes gigabytes, which its backend keeps between the cases.
static MEMORY: Mutex<()> = Mutex::new(());

/// What a tensor is filled with.
#[derive(Clone, Copy)]
struct Random {
    dtype: DType,
    seed: u64,
    scale: f32,
}

impl Random {
    fn tensor<B: KernelBackend>(self, b: &B, shape: (usize, usize)) -> Step<B::Tensor> {
        let mut tensor = b.alloc(&[shape.0, shape.1], self.dtype)?;
        b.fill_random(&mut tensor, self.seed, self.scale)?;
        Ok(tensor)
    }

    fn at(self, index: usize) -> f64 {
        round(self.dtype, f64::from(uniform(self.seed, index as u64, self.scale)))
    }
}

fn filled<B: KernelBackend>(b: &B, shape: (usize, usize), seed: u64, scale: f32) -> Step<B::Tensor> {
    Random { dtype: DTYPE, seed, scale }.tensor(b, shape)
}

/// Overwrites elements from `first` on.
fn put<B: KernelBackend>(b: &B, tensor: &mut B::Tensor, first: usize, values: &[f64]) -> Step {
    let (dtype, mut bytes) = (tensor.dtype(), Vec::new());
    values.iter().for_each(|value| encode(dtype, *value, &mut bytes));
    Ok(b.write(tensor, first * dtype.block_bytes(), &bytes)?)
}

/// Integers, one by row.
fn index<B: KernelBackend>(b: &B, of_row: impl Fn(usize) -> usize, rows: usize) -> Step<B::Tensor> {
    let bytes: Vec<u8> = (0..rows).flat_map(|row| (of_row(row) as u32).to_ne_bytes()).collect();
    let mut tensor = b.alloc(&[rows], DType::U32)?;
    b.write(&mut tensor, 0, &bytes)?;
    Ok(tensor)
}

/// Element of a [`filled`] tensor.
fn element(seed: u64, index: usize, scale: f32) -> f64 {
    Random { dtype: DTYPE, seed, scale }.at(index)
}

/// Elements of a [`filled`] tensor from `first` on.
fn elements(seed: u64, first: usize, count: usize, scale: f32) -> Vec<f64> {
    (first..first + count).map(|i| element(seed, i, scale)).collect()
}

/// Compares the elements from `first` on.
fn check_from<B: KernelBackend>(
    b: &B,
    tensor: &B::Tensor,
    first: usize,
    want: &[Want],
    judge: Judge,
) -> Step {
    let (dtype, size) = (tensor.dtype(), tensor.dtype().block_bytes());
    let mut bytes = vec![0; want.len() * size];
    b.read(tensor, first * size, &mut bytes)?;
    let name = format!("elements from {first} on");
    compare(&name, want.len(), dtype, &decode(dtype, &bytes), want, judge)
}

fn check<B: KernelBackend>(b: &B, tensor: &B::Tensor, judge: Judge, want: impl Fn(usize) -> Want) -> Step {
    places().into_iter().try_for_each(|first| {
        let want: Vec<Want> = (first..first + SPAN).map(&want).collect();
        check_from(b, tensor, first, &want, judge)
    })
}

/// As [`check`], of whole rows.
fn check_rows<B: KernelBackend>(
    b: &B,
    tensor: &B::Tensor,
    (n_rows, cols): (usize, usize),
    judge: Judge,
    want: impl Fn(usize) -> Vec<Want>,
) -> Step {
    rows(n_rows, cols).into_iter().try_for_each(|row| check_from(b, tensor, row * cols, &want(row), judge))
}

fn case(name: &str) -> Case {
    sized(name, ALL)
}

fn sized(name: &str, (rows, cols): (usize, usize)) -> Case {
    Case::named(format!("{name}, {rows} x {cols} {DTYPE}"))
}

pub(super) fn add<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    let _alone = MEMORY.lock();
    run.case(&case("x += y"), "in place", |b| {
        let (mut x, y) = (filled(b, ALL, SEED, 2.0)?, filled(b, ALL, SEED + 1, 2.0)?);
        b.add_into(Add { io: Io::InPlace(MatMut::new(&mut x)), y: Mat::new(&y) }.check()?)?;
        let sum = |i| element(SEED, i, 2.0) + element(SEED + 1, i, 2.0);
        check(b, &x, Judge::Elementwise, |i| Want::relative(sum(i), U))
    })
}

pub(super) fn mul<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    let _alone = MEMORY.lock();
    run.case(&case("x *= y"), "in place", |b| {
        let (mut x, y) = (filled(b, ALL, SEED, 2.0)?, filled(b, ALL, SEED + 1, 2.0)?);
        b.mul_into(Mul { io: Io::InPlace(MatMut::new(&mut x)), y: Mat::new(&y) }.check()?)?;
        let product = |i| element(SEED, i, 2.0) * element(SEED + 1, i, 2.0);
        check(b, &x, Judge::Elementwise, |i| Want::relative(product(i), U))
    })
}

pub(super) fn silu<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    let _alone = MEMORY.lock();
    for (dtype, (rows, cols)) in [(DTYPE, (1, ROWS * COLS)), (DTYPE, ALL), (DType::F32, ALL)] {
        run.case(&Case::named(format!("{rows} x {cols} {dtype}")), "in place", |b| {
            let values = Random { dtype, seed: SEED, scale: 8.0 };
            let mut x = values.tensor(b, (rows, cols))?;
            b.silu_into(Silu { io: Io::InPlace(MatMut::new(&mut x)) }.check()?)?;
            check(b, &x, Judge::Elementwise, |i| silu::silu(values.at(i)))
        })?;
    }
    Ok(())
}

pub(super) fn softmax<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    let _alone = MEMORY.lock();
    run.case(&case("rows"), "in place", |b| {
        let mut x = filled(b, ALL, SEED, 6.0)?;
        b.softmax_into(Softmax { io: Io::InPlace(MatMut::new(&mut x)) }.check()?)?;
        check_rows(b, &x, ALL, Judge::Reduction, |row| softmax::row(&elements(SEED, row * COLS, COLS, 6.0)))
    })?;
    long_row::softmax(run)
}

pub(super) fn rmsnorm<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    let _alone = MEMORY.lock();
    run.case(&case("rows"), "in place", |b| {
        let (mut x, weight) = (filled(b, ALL, SEED, 2.0)?, filled(b, (1, COLS), SEED + 1, 1.5)?);
        let (io, eps) = (Io::InPlace(MatMut::new(&mut x)), 1e-5);
        b.rmsnorm_into(RmsNorm { io, weight: Mat::vector(&weight), eps }.check()?)?;
        let weight = elements(SEED + 1, 0, COLS, 1.5);
        let want = |row| rmsnorm::row(&elements(SEED, row * COLS, COLS, 2.0), &weight, eps);
        check_rows(b, &x, ALL, Judge::Reduction, want)
    })?;
    long_row::rmsnorm(run)
}

pub(super) fn argmax<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    let _alone = MEMORY.lock();
    run.case(&case("rows"), "into", |b| {
        let x = filled(b, ALL, SEED, 9.0)?;
        let mut id = b.alloc(&[ROWS], DType::U32)?;
        let (logits, ids) = (Mat::new(&x), MatMut::vector(&mut id));
        b.argmax_into(Argmax { logits, id: ids, position: None }.check()?)?;
        rows(ROWS, COLS).into_iter().try_for_each(|row| {
            let want = argmax::row(&elements(SEED, row * COLS, COLS, 9.0));
            check_from(b, &id, row, &[Want::exact(f64::from(want))], Judge::Bits)
        })
    })?;
    long_row::argmax(run)
}

pub(super) fn apply_rope<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    let _alone = MEMORY.lock();
    const HEAD_DIM: usize = 128;
    const POSITIONS: usize = 64;
    run.case(&case("rows"), "in place", |b| {
        let mut x = filled(b, ALL, SEED, 2.0)?;
        let shape = (POSITIONS, HEAD_DIM / 2);
        let table = |seed| {
            let mut table = b.alloc(&[shape.0, shape.1], DType::F32)?;
            b.fill_random(&mut table, seed, 1.0)?;
            Step::Ok((table, Host::random(seed, shape, DType::F32, 1.0)))
        };
        let ((cos, cos_values), (sin, sin_values)) = (table(SEED + 1)?, table(SEED + 2)?);
        // One of them lies outside the tables.
        let position = |row: usize| row * 7 % (POSITIONS + 1);
        let positions = index(b, position, ROWS)?;
        let at = At { positions: Mat::vector(&positions), first: None, distinct: false };
        let (cos, sin) = (Mat::new(&cos), Mat::new(&sin));
        let io = Io::InPlace(MatMut::new(&mut x));
        b.apply_rope_into(ApplyRope { io, cos, sin, at, head_dim: HEAD_DIM }.check()?)?;
        check_rows(b, &x, ALL, Judge::Elementwise, |row| {
            let x = elements(SEED, row * COLS, COLS, 2.0);
            apply_rope::row(&x, &cos_values, &sin_values, position(row))
        })
    })
}

pub(super) fn matmul<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    let _alone = MEMORY.lock();
    many_rows(run)?;
    for m in [1, 4] {
        run.case(&case("weights"), &format!("{m} rows"), |b| {
            let (x, w) = (filled(b, (m, COLS), SEED + 1, 1.0)?, filled(b, ALL, SEED, 1.0)?);
            let mut out = b.alloc(&[m, ROWS], DTYPE)?;
            b.matmul_into(product(&x, &w, &mut out).check()?)?;
            for (i, j) in (0..m).flat_map(|i| rows(ROWS, COLS).map(|j| (i, j))) {
                let (x, w) = (elements(SEED + 1, i * COLS, COLS, 1.0), elements(SEED, j * COLS, COLS, 1.0));
                let (sum, magnitude) = matmul::dot(&x, &w);
                let want = Want::sum(sum, COLS, magnitude);
                check_from(b, &out, i * ROWS + j, &[want], Judge::Reduction)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn product<'a, T: DeviceTensor>(x: &'a T, w: &'a T, out: &'a mut T) -> Matmul<'a, T> {
    let (x, w, out) = (Mat::new(x), Mat::new(w), MatMut::new(out));
    Matmul { x, w, out, accumulate: false, layout: WeightLayout::OutIn }
}

/// More tiles of 128 rows than 65 535, of as many columns as they come out with.
fn many_rows<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    const SIDE: usize = 256;
    let shape = ((1 << 23) + 3, SIDE);
    run.case(&sized("rows", shape), "into", |b| {
        let (x, w) = (filled(b, shape, SEED, 1.0)?, filled(b, (SIDE, SIDE), SEED + 1, 1.0)?);
        let mut out = b.alloc(&[shape.0, shape.1], DTYPE)?;
        b.matmul_into(product(&x, &w, &mut out).check()?)?;
        let w = Host::random(SEED + 1, (SIDE, SIDE), DTYPE, 1.0);
        check_rows(b, &out, shape, Judge::Reduction, |row| {
            let data = elements(SEED, row * SIDE, SIDE, 1.0);
            matmul::reference(&Host { dtype: DTYPE, rows: 1, cols: SIDE, data }, &w, None)
        })
    })
}

pub(super) fn embed<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    let _alone = MEMORY.lock();
    run.case(&case("from a table"), "into", |b| {
        let table = filled(b, ALL, SEED, 2.0)?;
        let ids = [0, 1 << 20, (1 << 21) - 1, 1 << 21, ROWS - 1, ROWS];
        let index = index(b, |i| ids[i], ids.len())?;
        let mut out = b.alloc(&[ids.len(), COLS], DTYPE)?;
        let op = Embed { table: Mat::new(&table), ids: Mat::vector(&index), out: MatMut::new(&mut out) };
        b.embed_into(op.check()?)?;
        let want: Vec<Want> = ids.iter().flat_map(|id| embedded(*id, ROWS)).collect();
        check_from(b, &out, 0, &want, Judge::Bits)
    })?;
    run.case(&case("to rows"), "into", |b| {
        let vocab = 1000;
        let table = filled(b, (vocab, COLS), SEED, 2.0)?;
        // One of them lies outside the table.
        let id = |row: usize| row * 7919 % (vocab + 1);
        let index = index(b, id, ROWS)?;
        let mut out = b.alloc(&[ROWS, COLS], DTYPE)?;
        let op = Embed { table: Mat::new(&table), ids: Mat::vector(&index), out: MatMut::new(&mut out) };
        b.embed_into(op.check()?)?;
        check_rows(b, &out, ALL, Judge::Bits, |row| embedded(id(row), vocab))
    })
}

/// Row `id` of a table of so many rows.
fn embedded(id: usize, vocab: usize) -> Vec<Want> {
    let row = if id < vocab { elements(SEED, id * COLS, COLS, 2.0) } else { vec![f64::NAN; COLS] };
    row.into_iter().map(Want::exact).collect()
}

pub(super) fn append_rows<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    let _alone = MEMORY.lock();
    for dtype in [DTYPE, DType::F32] {
        run.case(&Case::named(format!("into a cache, {ROWS} x {COLS} {dtype}")), "into", |b| {
            let of = |seed| Random { dtype, seed, scale: 2.0 };
            let (mut cache, src) = (of(SEED).tensor(b, ALL)?, of(SEED + 1).tensor(b, (4, COLS))?);
            // The last one lies outside.
            let first = ROWS - 3;
            let positions = index(b, |row| first + row, 4)?;
            let at = At { positions: Mat::vector(&positions), first: Some(first), distinct: false };
            let op = AppendRows { src: Mat::new(&src), dst: MatMut::new(&mut cache), at };
            b.append_rows_into(op.check()?)?;
            check(b, &cache, Judge::Bits, |i| match i.checked_sub(first * COLS) {
                Some(i) => Want::exact(of(SEED + 1).at(i)),
                None => Want::exact(of(SEED).at(i)),
            })
        })?;
    }
    run.case(&case("rows"), "into", |b| {
        let src = filled(b, ALL, SEED, 2.0)?;
        let mut cache = b.alloc(&[ROWS, COLS], DTYPE)?;
        let last_first = |row: usize| ROWS - 1 - row;
        let positions = index(b, last_first, ROWS)?;
        let at = At { positions: Mat::vector(&positions), first: None, distinct: true };
        let op = AppendRows { src: Mat::new(&src), dst: MatMut::new(&mut cache), at };
        b.append_rows_into(op.check()?)?;
        check_rows(b, &cache, ALL, Judge::Bits, |row| {
            let row = elements(SEED, last_first(row) * COLS, COLS, 2.0);
            row.into_iter().map(Want::exact).collect()
        })
    })
}
