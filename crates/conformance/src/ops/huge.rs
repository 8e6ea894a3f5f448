//! Tensors of more than 2^31 elements, made on the device and checked at places.

use std::sync::Mutex;

use backend_api::ops::{Add, AppendRows, Embed, Silu};
use backend_api::random::uniform;
use backend_api::{At, DType, Io, KernelBackend, Mat, MatMut, Op};

use super::silu::silu as silu_of;
use crate::Failure;
use crate::case::{Case, Run, compare};
use crate::host::{decode, round};
use crate::report::Step;
use crate::tolerance::{Judge, U, Want};

const COLS: usize = 1024;
/// With [`COLS`], 2^31 elements and three rows more.
const ROWS: usize = (1 << 21) + 3;
const DTYPE: DType = DType::F16;
/// Elements compared at each place.
const SPAN: usize = 64;
const SEED: u64 = 0x2_0000_0001;

/// First elements of the spans that are compared: both ends, around 2^31, and in between.
fn places() -> [usize; 7] {
    let middle = 1usize << 31;
    [0, middle / 2 - 32, middle - SPAN, middle - 32, middle, middle + COLS, ROWS * COLS - SPAN]
}

/// One at a time: tests run in parallel, and each takes gigabytes.
static MEMORY: Mutex<()> = Mutex::new(());

fn filled<B: KernelBackend>(b: &B, seed: u64, scale: f32) -> Step<B::Tensor> {
    let mut tensor = b.alloc(&[ROWS, COLS], DTYPE)?;
    b.fill_random(&mut tensor, seed, scale)?;
    Ok(tensor)
}

/// Element of a [`filled`] tensor.
fn element(seed: u64, index: usize, scale: f32) -> f64 {
    round(DTYPE, f64::from(uniform(seed, index as u64, scale)))
}

fn check<B: KernelBackend>(b: &B, tensor: &B::Tensor, judge: Judge, want: impl Fn(usize) -> Want) -> Step {
    for first in places() {
        let mut bytes = vec![0; SPAN * 2];
        b.read(tensor, first * 2, &mut bytes)?;
        let want: Vec<Want> = (first..first + SPAN).map(&want).collect();
        compare(&format!("elements from {first} on"), SPAN, DTYPE, &decode(DTYPE, &bytes), &want, judge)?;
    }
    Ok(())
}

fn case(name: &str) -> Case {
    Case::named(format!("{name}, {ROWS} x {COLS} {DTYPE}"))
}

pub(super) fn add<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    run.case(&case("x += y"), "in place", |b| {
        let _alone = MEMORY.lock();
        let (mut x, y) = (filled(b, SEED, 2.0)?, filled(b, SEED + 1, 2.0)?);
        b.add_into(Add { io: Io::InPlace(MatMut::new(&mut x)), y: Mat::new(&y) }.check()?)?;
        let sum = |i| element(SEED, i, 2.0) + element(SEED + 1, i, 2.0);
        check(b, &x, Judge::Elementwise, |i| Want::relative(sum(i), U))
    })
}

pub(super) fn silu<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    run.case(&case("one row"), "in place", |b| {
        let _alone = MEMORY.lock();
        let mut x = filled(b, SEED, 8.0)?;
        let row = MatMut::new(&mut x).reshaped(1, ROWS * COLS)?;
        b.silu_into(Silu { io: Io::InPlace(row) }.check()?)?;
        check(b, &x, Judge::Elementwise, |i| silu_of(element(SEED, i, 8.0)))
    })
}

pub(super) fn embed<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    run.case(&case("from a table"), "into", |b| {
        let _alone = MEMORY.lock();
        let table = filled(b, SEED, 2.0)?;
        let ids = [0, 1 << 20, (1 << 21) - 1, 1 << 21, ROWS as u32 - 1, ROWS as u32];
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_ne_bytes()).collect();
        let mut index = b.alloc(&[ids.len()], DType::U32)?;
        b.write(&mut index, 0, &bytes)?;
        let mut out = b.alloc(&[ids.len(), COLS], DTYPE)?;
        let op = Embed { table: Mat::new(&table), ids: Mat::vector(&index), out: MatMut::new(&mut out) };
        b.embed_into(op.check()?)?;
        let want = |id: &u32| {
            let (row, inside) = (*id as usize, (*id as usize) < ROWS);
            (0..COLS).map(move |c| if inside { element(SEED, row * COLS + c, 2.0) } else { f64::NAN })
        };
        let want: Vec<Want> = ids.iter().flat_map(want).map(Want::exact).collect();
        compare("out", COLS, DTYPE, &decode(DTYPE, &b.download(&out)?), &want, Judge::Bits)
    })
}

pub(super) fn append_rows<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    run.case(&case("into a cache"), "into", |b| {
        let _alone = MEMORY.lock();
        let mut cache = filled(b, SEED, 2.0)?;
        let mut src = b.alloc(&[4, COLS], DTYPE)?;
        b.fill_random(&mut src, SEED + 1, 2.0)?;
        // The last one lies outside.
        let first = ROWS - 3;
        let bytes: Vec<u8> = (first as u32..).take(4).flat_map(u32::to_ne_bytes).collect();
        let mut positions = b.alloc(&[4], DType::U32)?;
        b.write(&mut positions, 0, &bytes)?;
        let at = At { positions: Mat::vector(&positions), first: Some(first), distinct: false };
        let op = AppendRows { src: Mat::new(&src), dst: MatMut::new(&mut cache), at };
        b.append_rows_into(op.check()?)?;
        check(b, &cache, Judge::Bits, |i| match i.checked_sub(first * COLS) {
            Some(i) => Want::exact(element(SEED + 1, i, 2.0)),
            None => Want::exact(element(SEED, i, 2.0)),
        })
    })
}
