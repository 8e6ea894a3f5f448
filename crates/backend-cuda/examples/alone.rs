//! A program whose only dependency is `backend-cuda`: `cargo run -p backend-cuda --example alone`.
//!
//! Uploads a matrix and a vector, multiplies, normalises and turns the result into probabilities on the GPU, and downloads
//! once at the end. Where there is no GPU it says what is missing and fails.

use std::process::ExitCode;

use backend_cuda::backend_api::ops::RmsNorm;
use backend_cuda::ndarray::{Array1, Array2};
use backend_cuda::{CudaBackend, DType, HostTensor, Io, KernelBackend, Mat, MatMut, Op, Result};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let gpu = CudaBackend::new()?;
    let info = gpu.info();
    println!("{}: {}", info.name, info.features.join(", "));

    let weights = Array2::from_shape_fn((4, 3), |(row, col)| (row + col) as f32);
    let weights = gpu.to_device_2d(&weights)?;
    let input = gpu.to_device_1d(&Array1::from_vec(vec![1.0, 0.5, -0.25]))?;
    let scale = gpu.to_device_1d(&Array1::ones(4))?;

    // Under its bare name an operation allocates its result.
    let product = gpu.matmul_vec(&weights, &input)?;
    let normed = gpu.rmsnorm(&product, &scale, 1e-5)?;
    let shares = gpu.softmax(&normed)?;
    println!("product {:.3}", gpu.to_host_1d(&product)?);
    println!("normed  {:.3}", gpu.to_host_1d(&normed)?);
    println!("shares  {:.3}", gpu.to_host_1d(&shares)?);

    // As a struct it works on windows of tensors, here in place on the second row of a bf16 matrix.
    let rows = HostTensor::from_vec(&[2, 4], (1..=8).map(|i| i as f32).collect())?.cast(DType::BF16);
    let mut rows = gpu.to_device(&rows)?;
    let scale = gpu.to_device(&HostTensor::from_vec(&[4], vec![1.0f32; 4])?.cast(DType::BF16))?;
    let io = Io::InPlace(MatMut::new(&mut rows).rows(1..2)?);
    gpu.rmsnorm_into(RmsNorm { io, weight: Mat::vector(&scale), eps: 1e-5 }.check()?)?;
    println!("rows\n{:.3}", gpu.to_host_2d(&rows)?);
    println!("{:?}", gpu.memory());
    Ok(())
}
