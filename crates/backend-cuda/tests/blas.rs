//! Products through cuBLASLt, held to the reference and to the own kernels.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use backend_api::ops::*;
use backend_api::{Cause, Checked, DType, Error, KernelBackend, Mat, MatMut, Op, Result};
use backend_cuda::{CudaBackend, CudaTensor};
use conformance::{Group, decode};

type T = CudaTensor;

/// A backend all of whose products go through the library.
struct Forced {
    inner: CudaBackend,
    done: AtomicU64,
    /// Products that the library has no counterpart for, though no side is empty.
    left: AtomicU64,
}

impl Forced {
    fn new(inner: CudaBackend) -> Self {
        Self { inner, done: AtomicU64::new(0), left: AtomicU64::new(0) }
    }
}

impl KernelBackend for Forced {
    type Tensor = T;

    conformance::forward! { inner:
        rmsnorm_into(RmsNorm), softmax_into(Softmax), silu_into(Silu), apply_rope_into(ApplyRope),
        compute_attention_scores_into(ComputeAttentionScores), weighted_sum_rows_into(WeightedSumRows),
        add_into(Add), mul_into(Mul), embed_into(Embed), append_rows_into(AppendRows), argmax_into(Argmax),
        sample_into(Sample)
    }

    fn activation_dtype(&self, weights: DType) -> DType {
        self.inner.activation_dtype(weights)
    }
    fn matmul_into(&self, op: Checked<Matmul<'_, T>>) -> Result<()> {
        let Matmul { x, w, mut out, accumulate, layout } = op.on(self.device())?;
        let (from, weights, to) = (x.operand().dtype, w.operand().dtype, out.operand().dtype);
        // What the library has no types for, and sums that it would round before it adds.
        if from != weights || ![from, DType::F32].contains(&to) || (accumulate && to != DType::F32) {
            return self.inner.matmul_into(Matmul { x, w, out, accumulate, layout }.check()?);
        }
        let op = Matmul { x, w, out: out.by_ref(), accumulate, layout };
        match self.inner.cublas_matmul_into(op.check()?) {
            Err(Error::Unsupported { .. }) => {
                let is_empty = x.n_rows() * x.n_cols() * out.n_cols() == 0;
                self.left.fetch_add(u64::from(!is_empty), Relaxed);
                self.inner.matmul_into(Matmul { x, w, out, accumulate, layout }.check()?)
            }
            done => done.inspect(|()| _ = self.done.fetch_add(1, Relaxed)),
        }
    }
}

/// Odd sides, windows at odd addresses, both layouts, with and without a residual, every type.
fn meets_the_reference(inner: CudaBackend) {
    println!("{}", inner.cublas().unwrap());
    let b = Forced::new(inner);
    let report = conformance::ops::matmul::run(&b, Group::Full).unwrap();
    println!("{report:?}, {} through the library", b.done.load(Relaxed));
    assert!(b.done.load(Relaxed) > 1000);
    assert_eq!(b.left.load(Relaxed), 0, "products that the library left");
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_library_meets_the_reference() {
    meets_the_reference(CudaBackend::new().unwrap());
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_library_meets_the_reference_in_poisoned_memory() {
    meets_the_reference(CudaBackend::builder().poison(true).build().unwrap());
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn what_is_switched_off_is_unavailable() {
    let error = CudaBackend::builder().blas(false).build().unwrap().cublas().unwrap_err();
    assert!(matches!(error, Error::Unavailable { cause: Cause::NoBlas, .. }), "{error}");
}

fn random(b: &CudaBackend, shape: &[usize], dtype: DType, seed: u64) -> T {
    let mut tensor = b.alloc(shape, dtype).unwrap();
    b.fill_random(&mut tensor, seed, 1.0).unwrap();
    tensor
}

fn product<'a>(x: Mat<'a, T>, w: &'a T, out: MatMut<'a, T>) -> Checked<Matmul<'a, T>> {
    let (w, accumulate, layout) = (Mat::new(w), false, WeightLayout::OutIn);
    Matmul { x, w, out, accumulate, layout }.check().unwrap()
}

/// The bits of one product, its x and w shifted by `shift` elements in their tensors.
fn bits(b: &CudaBackend, (m, n, k): (usize, usize, usize), dtype: DType, shift: usize) -> Vec<u8> {
    let x = random(b, &[m, k], dtype, 1);
    let moved = {
        let bytes = b.download(&x).unwrap();
        let mut padded = vec![0u8; dtype.bytes(shift).unwrap()];
        padded.extend(bytes);
        let fill = |offset: usize, out: &mut [u8]| {
            out.copy_from_slice(&padded[offset..offset + out.len()]);
            Ok(())
        };
        b.upload(&[1, shift + m * k], dtype, &fill).unwrap()
    };
    let w = random(b, &[n, k], dtype, 2);
    let mut out = b.alloc(&[m, n], dtype).unwrap();
    let x = Mat::new(&moved).cols(shift..shift + m * k).unwrap().reshaped(m, k).unwrap();
    b.cublas_matmul_into(product(x, &w, MatMut::new(&mut out))).unwrap();
    b.download(&out).unwrap()
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_same_inputs_give_the_same_bits() {
    let (b, other) = (CudaBackend::new().unwrap(), CudaBackend::new().unwrap());
    for dtype in DType::FLOATS {
        for shape in [(16, 4096, 4096), (64, 4096, 14_336), (77, 1023, 515), (512, 4096, 4096)] {
            let want = bits(&b, shape, dtype, 0);
            for shift in [0, 8, 16, 128] {
                assert!(want == bits(&b, shape, dtype, shift), "{dtype} {shape:?} shifted by {shift}");
                assert!(want == bits(&other, shape, dtype, shift), "{dtype} {shape:?} on another backend");
            }
        }
    }
}

/// Sums long enough to be split: pieces that were added in half precision would show.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn long_sums_agree_with_the_own_kernels() {
    let b = CudaBackend::new().unwrap();
    for (dtype, out) in DType::FLOATS.into_iter().flat_map(|d| [(d, d), (d, DType::F32)]) {
        for (m, n, k) in [(8, 4096, 14_336), (16, 257, 32_768), (64, 4096, 14_336), (9, 1030, 4100)] {
            let (x, w) = (random(&b, &[m, k], dtype, 3), random(&b, &[n, k], dtype, 4));
            let wide = b.upload(&[m, k], DType::F32, &widened(&b, &x)).unwrap();
            let (mut got, mut want) = (b.alloc(&[m, n], out).unwrap(), b.alloc(&[m, n], DType::F32).unwrap());
            b.cublas_matmul_into(product(Mat::new(&x), &w, MatMut::new(&mut got))).unwrap();
            for start in (0..m).step_by(8) {
                let rows = start..(start + 8).min(m);
                let out = MatMut::new(&mut want).rows(rows.clone()).unwrap();
                b.matmul_into(product(Mat::new(&wide).rows(rows).unwrap(), &w, out)).unwrap();
            }
            let got = decode(out, &b.download(&got).unwrap());
            let want = decode(DType::F32, &b.download(&want).unwrap());
            let nmse = conformance::tolerance::nmse(&got, &want);
            let most = out.unit_roundoff().powi(2) * 4.0 / 3.0 + 1e-10;
            assert!(nmse < most, "{dtype} -> {out} {m} x {n} x {k}: {nmse:e} > {most:e}");
        }
    }
}

/// A tensor's elements as f32, for an upload.
fn widened(b: &CudaBackend, tensor: &T) -> impl Fn(usize, &mut [u8]) -> Result<()> + Sync {
    use backend_api::DeviceTensor;
    let values = decode(tensor.dtype(), &b.download(tensor).unwrap());
    let bytes: Vec<u8> = values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect();
    move |offset, out| {
        out.copy_from_slice(&bytes[offset..offset + out.len()]);
        Ok(())
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn threads_share_the_library() {
    let b = CudaBackend::new().unwrap();
    let shapes = [(16, 512, 4096), (33, 129, 257), (64, 64, 14_336), (100, 300, 128)];
    let want: Vec<_> = shapes.iter().map(|s| bits(&b, *s, DType::BF16, 0)).collect();
    let fresh = CudaBackend::new().unwrap();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let (fresh, want) = (&fresh, &want);
            scope.spawn(move || {
                for round in 0..20 {
                    let at = (i + round) % shapes.len();
                    assert!(bits(fresh, shapes[at], DType::BF16, 0) == want[at], "{:?}", shapes[at]);
                }
            });
        }
    });
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn many_rows_are_the_librarys() {
    let b = CudaBackend::new().unwrap();
    let launched = |m: usize, by_library: bool| {
        let (x, w) = (random(&b, &[m, 256], DType::BF16, 5), random(&b, &[64, 256], DType::BF16, 6));
        let (mut one, mut two) =
            (b.alloc(&[m, 64], DType::BF16).unwrap(), b.alloc(&[m, 64], DType::BF16).unwrap());
        let before = b.counters().launches;
        if by_library {
            b.cublas_matmul_into(product(Mat::new(&x), &w, MatMut::new(&mut one))).unwrap();
        } else {
            b.matmul_into(product(Mat::new(&x), &w, MatMut::new(&mut two))).unwrap();
        }
        assert_eq!(b.counters().launches, before + 1);
        b.download(if by_library { &one } else { &two }).unwrap()
    };
    for m in [16, 100, 512] {
        assert!(launched(m, false) == launched(m, true), "{m}");
    }
}
