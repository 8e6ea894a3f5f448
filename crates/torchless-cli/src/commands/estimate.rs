//! `torchless estimate`.

use serde::Serialize;
use torchless::{DType, Estimate, EstimateRequest, Fit, KernelBackend, ModelShape, OnBackend};

use crate::args::EstimateArgs;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::source::{
    activation_bytes, available, backend, base_name, context, is_folder, named, stored_dtype, weight_dtype,
};

/// The estimate as JSON shows it.
#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    shape: &'a ModelShape,
    parameters: u64,
    dtype: &'a str,
    kv_dtype: &'a str,
    context: usize,
    batch: usize,
    prefill_chunk: usize,
    bytes: Estimate,
    fit: Option<Fit>,
}

/// Runs the command.
pub(crate) fn run(args: &EstimateArgs) -> Result<(), Failure> {
    let (name, shape, stored) = match &args.source.model {
        Some(folder) => {
            is_folder(folder)?;
            (base_name(folder), ModelShape::from_folder(folder)?, stored_dtype(folder))
        }
        None => {
            let (name, shape) = named(&args.source)?;
            (name, shape, DType::BF16)
        }
    };
    let asked = args.load.options();
    let dtype = asked.dtype.unwrap_or(stored);
    let kv_dtype = asked.kv_dtype.unwrap_or(dtype);
    let backend = backend(args.device, None)?;
    let request = EstimateRequest {
        shape: &shape,
        dtype: weight_dtype(dtype),
        kv_dtype: weight_dtype(kv_dtype),
        context: context(args.context, &shape)?,
        batch: args.batch,
        prefill_chunk: asked.prefill_chunk.unwrap_or(backend.prefill_chunk()),
        activation_bytes: activation_bytes(&backend, dtype),
    };
    let device = OnBackend(&*backend);
    let report = Report {
        name: &name,
        shape: &shape,
        parameters: shape.parameters(),
        dtype: dtype.name(),
        kv_dtype: kv_dtype.name(),
        context: request.context,
        batch: request.batch,
        prefill_chunk: request.prefill_chunk,
        bytes: request.estimate_on(&device)?,
        fit: available(&backend).map(|bytes| request.fit_on(&device, bytes)).transpose()?,
    };
    if args.json {
        return print_json(&report);
    }
    let sessions = if report.batch == 1 { "session" } else { "sessions" };
    print(&format!(
        "{name}: {:.1} million parameters in {dtype}, KV cache in {kv_dtype}, {} {sessions} of {} tokens, chunks of {}\n{}\n",
        report.parameters as f64 / 1e6,
        report.batch,
        report.context,
        report.prefill_chunk,
        report.bytes
    ))?;
    match report.fit {
        Some(fit) => print(&format!("in the memory that is free on {} now: {fit}\n", backend.name())),
        None => Ok(()),
    }
}
