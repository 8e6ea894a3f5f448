//! `torchless bench`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use torchless::{Backend, DType, EstimateRequest, KernelBackend, LoadOptions, Model, ModelShape, OnBackend};

use crate::args::BenchArgs;
use crate::bench::{Bench, OutputFile, Report, product_peak, svg};
use crate::failure::Failure;
use crate::interrupt;
use crate::output::{json, note, print};
use crate::source::{self, Source, activation_bytes, weight_dtype};

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    let source = Source::of_shape(&args.source)?;
    let shape = source.config.shape.clone();
    let plan = Plan::new(args, &shape)?;
    let outputs = (open(args.json.as_deref())?, open(args.plot.as_deref())?);
    for skipped in &plan.skipped {
        note(&format!("skipped: {skipped}"));
    }
    let cancel = interrupt::listen();
    let backend = source::backend(args.device.device, args.device.threads)?;
    let asked = args.load.options();
    let dtype = asked.dtype.unwrap_or_else(|| source.stored_dtype());
    let free = backend.memory().free;
    let kv_dtype = asked.kv_dtype.unwrap_or(dtype);
    let chunk = asked.prefill_chunk.unwrap_or(backend.prefill_chunk());
    let needs = room(&backend, &request(&backend, &shape, [dtype, kv_dtype], plan.context, chunk))?;
    let bandwidth = backend.read_bandwidth().ok();
    let name = source.name.clone();
    let start = Instant::now();
    let model = source.load(&backend, LoadOptions { dtype: Some(dtype), ..asked }, &cancel)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let mut report = Report { load_seconds, ..about(&model, name, needs, &plan) };
    print(&report.heading())?;
    let measured = plan.measure(&model, args, &cancel, free, &mut report);
    report.complete = match measured {
        Ok(()) => true,
        Err(Failure::Interrupted) => false,
        Err(other) => {
            print(&report.prompts())?;
            return Err(other);
        }
    };
    // What the probes take is no part of the model's memory, and they have the room of its weights.
    let dtype = model.dtype();
    drop(model);
    // The larger of two: other work on the machine makes a probe slow, never fast.
    let again = backend.read_bandwidth().ok();
    let bandwidth = bandwidth.into_iter().chain(again).reduce(f64::max);
    let peak = product_peak(&*backend, dtype).ok();
    report.compare_with(bandwidth, peak, matches!(backend.product_library(), Ok(Some(_))));
    let shown = print(&(report.prompts() + &report.decodes() + &report.memory()));
    if let Some(file) = outputs.0 {
        file.write(&json(&report)?)?;
    }
    if let Some(file) = outputs.1 {
        file.write(&svg(&report))?;
    }
    shown?;
    if !report.complete {
        return Err(Failure::Interrupted);
    }
    if plan.skipped.is_empty() {
        return Ok(());
    }
    let skipped = plan.skipped.join("; ");
    Err(Failure::Failed(format!(
        "not measured: {skipped}; leave it out, or give a larger --context where the model has one"
    )))
}

fn open(path: Option<&std::path::Path>) -> Result<Option<OutputFile>, Failure> {
    path.map(OutputFile::open).transpose()
}

/// What is measured where nothing is asked for.
const PROMPTS: [usize; 2] = [512, 2048];
const DEPTHS: [usize; 3] = [0, 512, 3584];

/// The entries that fit into the context.
struct Plan {
    context: usize,
    prompts: Vec<usize>,
    depths: Vec<usize>,
    /// Those that were asked for and do not fit.
    skipped: Vec<String>,
}

impl Plan {
    fn new(args: &BenchArgs, shape: &ModelShape) -> Result<Self, Failure> {
        // One id is fed to begin with, and one token more than is timed is generated.
        let decoded = |depth: usize| depth.saturating_add(args.generate).saturating_add(2);
        let all_prompts = args.prompt_tokens.as_deref().unwrap_or(&PROMPTS);
        let all_depths = args.depth.as_deref().unwrap_or(&DEPTHS);
        let answered = all_prompts.iter().map(|n| n.saturating_add(1));
        let needed = answered.chain(all_depths.iter().map(|d| decoded(*d)));
        let context = match args.context {
            None => needed.max().unwrap_or(1).clamp(1, shape.max_position_embeddings),
            asked => source::context(asked, shape)?,
        };
        let split = |entries: &[usize], what: &str, needed: &dyn Fn(usize) -> usize| {
            let (fitting, rest): (Vec<_>, Vec<_>) = entries.iter().partition(|n| needed(**n) <= context);
            let reason = |n| format!("{what} {n} needs {} positions, the context has {context}", needed(n));
            (fitting, rest.into_iter().map(reason).collect::<Vec<_>>())
        };
        let (prompts, long_prompts) = split(all_prompts, "prompt", &|n| n);
        let (depths, long_depths) = split(all_depths, "depth", &decoded);
        if prompts.is_empty() && depths.is_empty() {
            let all = [long_prompts, long_depths].concat().join("; ");
            return Err(Failure::Usage(format!("nothing to measure: {all}")));
        }
        let asked = |given: bool, long: Vec<String>| if given { long } else { Vec::new() };
        let skipped =
            [asked(args.prompt_tokens.is_some(), long_prompts), asked(args.depth.is_some(), long_depths)]
                .concat();
        Ok(Self { context, prompts, depths, skipped })
    }

    /// Measures every entry into the report.
    fn measure(
        &self,
        model: &Model<Backend>,
        args: &BenchArgs,
        cancel: &Arc<AtomicBool>,
        free: Option<u64>,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let mut bench = Bench::new(model, self.context, args.repeat, cancel.clone())?;
        let prompts: Result<(), Failure> = self.prompts.iter().try_for_each(|tokens| {
            report.prompt.push(bench.prompt(*tokens)?);
            Ok(())
        });
        let decodes = prompts.and_then(|()| {
            self.depths.iter().try_for_each(|depth| {
                report.decode.push(bench.decode(*depth, args.generate)?);
                Ok(())
            })
        });
        let memory = model.backend().memory();
        report.high_water_bytes = memory.high_water;
        // What the system has free moves with every other process.
        let has_own = model.backend().device().kind() != "cpu";
        let fell = free.zip(memory.free).map(|(before, after)| before.saturating_sub(after));
        report.device_bytes = fell.filter(|_| has_own);
        decodes
    }
}

/// What a run needs, in bytes.
struct Needs {
    total: u64,
    /// Weights and KV cache.
    model: u64,
}

fn request<'s>(
    backend: &Backend,
    shape: &'s ModelShape,
    [dtype, kv_dtype]: [DType; 2],
    context: usize,
    prefill_chunk: usize,
) -> EstimateRequest<'s> {
    let activation_bytes = activation_bytes(backend, dtype);
    let (dtype, kv_dtype) = (weight_dtype(dtype), weight_dtype(kv_dtype));
    EstimateRequest { shape, dtype, kv_dtype, context, batch: 1, prefill_chunk, activation_bytes }
}

/// Refuses what does not fit into the memory that is free.
fn room(backend: &Backend, request: &EstimateRequest<'_>) -> Result<Needs, Failure> {
    let device = OnBackend(backend);
    if let Some(available) = source::available(backend) {
        let fit = request.fit_on(&device, available)?;
        if !fit.fits() {
            return Err(Failure::Failed(format!("{fit}; or take a smaller --shape or another --device")));
        }
    }
    let exact = request.estimate()?;
    let model = exact.weights().saturating_add(exact.kv_cache);
    Ok(Needs { total: request.estimate_on(&device)?.total(), model })
}

/// What makes products, or stands in for the library that would.
fn library(found: torchless::Result<Option<String>>) -> Option<String> {
    match found {
        Ok(library) => library,
        Err(torchless::Error::Unavailable { backend, .. }) => {
            Some(format!("no {backend}: own kernels for products; `torchless devices` says why"))
        }
        Err(other) => Some(other.to_string()),
    }
}

fn about(model: &Model<Backend>, name: String, needs: Needs, plan: &Plan) -> Report {
    let backend = model.backend();
    let info = backend.info();
    let threads = info.features.iter().find_map(|f| f.strip_prefix("threads: ")?.parse().ok());
    Report {
        torchless_version: env!("CARGO_PKG_VERSION"),
        os: std::env::consts::OS,
        arch: std::env::consts::ARCH,
        backend: backend.name().to_owned(),
        machine: info.name,
        threads,
        features: info.features,
        // A row at a time needs none, and opening it takes memory.
        product_library: (model.prefill_chunk() > 1).then(|| library(backend.product_library())).flatten(),
        model: name,
        parameters: model.config().shape.parameters(),
        dtype: model.dtype().name(),
        kv_dtype: model.kv_dtype().name(),
        context: plan.context,
        prefill_chunk: model.prefill_chunk(),
        slow_paths: backend.slow_paths(&model.workload(plan.context)).into_iter().map(Into::into).collect(),
        estimated_bytes: needs.total,
        model_bytes: needs.model,
        skipped: plan.skipped.clone(),
        ..Report::default()
    }
}

#[cfg(test)]
mod tests {
    use torchless::{Cause, Error};

    use super::*;

    #[test]
    fn a_missing_library_is_one_line_of_the_heading() {
        let (backend, searched) = ("cuBLAS".into(), vec!["/nowhere".into()]);
        let reason = "it was not found".into();
        let missing = Error::Unavailable { backend, cause: Cause::NoBlas, reason, searched };
        for (found, expected) in [
            (Err(missing), "\nno cuBLAS: own kernels for products; `torchless devices` says why\n"),
            (Ok(Some("cuBLASLt 13.1.0".into())), "\ncuBLASLt 13.1.0\n"),
            (Ok(None), "cpu: , \n"),
        ] {
            let report =
                Report { product_library: library(found), backend: "cpu".into(), ..Report::default() };
            assert!(report.heading().ends_with(expected), "{}", report.heading());
        }
    }
}
