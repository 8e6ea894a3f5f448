//! What a benchmark found.

use serde::Serialize;

/// Everything that was measured, as the JSON file holds it. Times are in seconds, sizes in bytes.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) torchless_version: &'static str,
    pub(crate) os: &'static str,
    pub(crate) arch: &'static str,
    pub(crate) backend: String,
    /// Product name of the processor or the GPU.
    pub(crate) machine: String,
    pub(crate) threads: Option<usize>,
    /// Instruction sets and the like.
    pub(crate) features: Vec<String>,
    /// The library that makes products, or what stands in for it; absent where there is no such thing.
    pub(crate) product_library: Option<String>,
    pub(crate) model: String,
    pub(crate) parameters: u64,
    pub(crate) dtype: &'static str,
    pub(crate) kv_dtype: &'static str,
    pub(crate) context: usize,
    pub(crate) prefill_chunk: usize,
    pub(crate) load_seconds: f64,
    /// What does not take the fastest kernels of the backend.
    pub(crate) slow_paths: Vec<SlowPath>,
    pub(crate) estimated_bytes: u64,
    pub(crate) high_water_bytes: u64,
    /// Of the weights and the KV cache.
    pub(crate) model_bytes: u64,
    /// By how much the free memory of a device of its own fell, kernels and libraries included.
    pub(crate) device_bytes: Option<u64>,
    /// Bytes per second; absent where there was no room to measure it.
    pub(crate) read_bandwidth: Option<f64>,
    /// Operations per second of the fastest large product; absent where it could not be measured.
    pub(crate) product_peak: Option<f64>,
    /// Whose it is: `products`, or `own kernels` where no library made them, so that a machine may do better.
    pub(crate) peak_of: &'static str,
    pub(crate) prompt: Vec<Prompt>,
    pub(crate) decode: Vec<Decode>,
    /// Entries that were asked for and do not fit into the context.
    pub(crate) skipped: Vec<String>,
    /// False where Ctrl-C ended the run early.
    pub(crate) complete: bool,
}

/// Prompts of one length.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Prompt {
    pub(crate) tokens: usize,
    /// By the median of `seconds`.
    pub(crate) tokens_per_second: f64,
    /// The mean over the prompt.
    pub(crate) flops_per_token: f64,
    pub(crate) flops_per_second: f64,
    /// Of the peak of products.
    pub(crate) peak_share: Option<f64>,
    /// Of each prompt.
    pub(crate) seconds: Vec<f64>,
    /// Seconds from the call to the arrival of the first token, the median; absent where the context has no room for it.
    pub(crate) first_token: Option<f64>,
    /// Of each answer.
    pub(crate) first_token_seconds: Vec<f64>,
}

/// An operation that does not take the fastest kernel.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SlowPath {
    pub(crate) op: &'static str,
    /// A token or a prompt.
    pub(crate) of: &'static str,
    pub(crate) reason: String,
    /// What it takes instead.
    pub(crate) instead: &'static str,
}

impl From<torchless::SlowPath> for SlowPath {
    fn from(path: torchless::SlowPath) -> Self {
        Self { op: path.op, of: path.of, reason: path.reason, instead: path.instead }
    }
}

/// Decoding at one depth.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Decode {
    pub(crate) depth: usize,
    /// By the median of `seconds`.
    pub(crate) tokens_per_second: f64,
    /// Weights, keys and values that a step must read.
    pub(crate) bytes_per_token: u64,
    pub(crate) bytes_per_second: f64,
    /// Of the read bandwidth.
    pub(crate) bandwidth_share: Option<f64>,
    pub(crate) per_step: PerStep,
    /// Of each step.
    pub(crate) seconds: Vec<f64>,
}

/// What the backend counted, per decoding step.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct PerStep {
    pub(crate) launches: f64,
    pub(crate) replays: f64,
    pub(crate) allocations: f64,
    pub(crate) writes: f64,
    pub(crate) reads: f64,
}

/// The middle value, or the mean of the two middle ones; NaN of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.get(middle.wrapping_sub(1))) {
        (Some(upper), Some(lower)) if sorted.len().is_multiple_of(2) => f64::midpoint(*lower, *upper),
        (Some(upper), _) => *upper,
        _ => f64::NAN,
    }
}

/// A share, if it is known.
fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".into(), |share| format!("{:.1} %", share * 100.0))
}

impl Prompt {
    /// Speeds from the operations of a prompt, the seconds of each, and those to the first token of each answer.
    pub(crate) fn new(tokens: usize, flops: f64, seconds: Vec<f64>, first_token_seconds: Vec<f64>) -> Self {
        let each = median(&seconds);
        let first_token = (!first_token_seconds.is_empty()).then(|| median(&first_token_seconds));
        Self {
            tokens,
            tokens_per_second: tokens as f64 / each,
            flops_per_token: flops / tokens as f64,
            flops_per_second: flops / each,
            peak_share: None,
            seconds,
            first_token,
            first_token_seconds,
        }
    }

    fn row(&self) -> String {
        let first = self.first_token.map_or_else(|| "-".into(), |s| format!("{:.3}", s * 1e3));
        format!(
            "{:>8} {:>10.1} {:>10.3} {:>10.3} {:>10} {first:>14} {:>8}\n",
            self.tokens,
            self.tokens_per_second,
            self.flops_per_token / 1e9,
            self.flops_per_second / 1e12,
            percent(self.peak_share),
            self.seconds.len(),
        )
    }
}

impl Decode {
    /// Speeds from the seconds of each step.
    pub(crate) fn new(depth: usize, bytes_per_token: u64, seconds: Vec<f64>, per_step: PerStep) -> Self {
        let tokens_per_second = 1.0 / median(&seconds);
        let bytes_per_second = bytes_per_token as f64 * tokens_per_second;
        let bandwidth_share = None;
        Self {
            depth,
            tokens_per_second,
            bytes_per_token,
            bytes_per_second,
            bandwidth_share,
            per_step,
            seconds,
        }
    }

    fn row(&self) -> String {
        let p = &self.per_step;
        format!(
            "{:>8} {:>10.1} {:>10.3} {:>10.2} {:>8.2} {:>10} {:>9.1} {:>7.1} {:>6.1} {:>6.1}\n",
            self.depth,
            self.tokens_per_second,
            1e3 / self.tokens_per_second,
            self.bytes_per_token as f64 / 1e6,
            self.bytes_per_second / 1e9,
            percent(self.bandwidth_share),
            p.launches + p.replays,
            p.allocations,
            p.writes,
            p.reads,
        )
    }
}

impl Report {
    /// Compares every depth with the read bandwidth, and every prompt with the peak of products, of a library or our own.
    pub(crate) fn compare_with(
        &mut self,
        read_bandwidth: Option<f64>,
        product_peak: Option<f64>,
        by_library: bool,
    ) {
        (self.read_bandwidth, self.product_peak) = (read_bandwidth, product_peak);
        self.peak_of = if by_library { "products" } else { "own kernels" };
        for prompt in &mut self.prompt {
            prompt.peak_share = product_peak.map(|limit| prompt.flops_per_second / limit);
        }
        for decode in &mut self.decode {
            decode.bandwidth_share = read_bandwidth.map(|limit| decode.bytes_per_second / limit);
        }
    }

    /// The lines above the tables.
    pub(crate) fn heading(&self) -> String {
        let million = self.parameters as f64 / 1e6;
        let (model, dtype, backend, machine) = (&self.model, self.dtype, &self.backend, &self.machine);
        let features = self.features.join(", ");
        let run = format!("KV cache in {}, chunks of {}", self.kv_dtype, self.prefill_chunk);
        let loaded = format!("loaded in {:.2} s, context {}", self.load_seconds, self.context);
        let slow = |p: &SlowPath| format!("slow: {} of a {}: {} -> {}\n", p.op, p.of, p.reason, p.instead);
        let slow: String = self.slow_paths.iter().map(slow).collect();
        let library = self.product_library.iter().map(|library| format!("{library}\n")).collect::<String>();
        format!(
            "{model}, {million:.1} million parameters, {dtype}, {run}, {loaded}\n{backend}: {machine}, {features}\n{library}{slow}"
        )
    }

    /// The table of prompts, and the peak that they are compared with.
    pub(crate) fn prompts(&self) -> String {
        if self.prompt.is_empty() {
            return String::new();
        }
        let mut text = format!(
            "\n{:>8} {:>10} {:>10} {:>10} {:>10} {:>14} {:>8}\n",
            "prompt", "tok/s", "GFLOP/tok", "TFLOP/s", "of peak", "first token ms", "samples"
        );
        text.extend(self.prompt.iter().map(Prompt::row));
        match self.product_peak {
            Some(peak) => text += &format!("peak of {} {:.3} TFLOP/s\n", self.peak_of, peak / 1e12),
            None => text += "peak of products not measured\n",
        }
        if self.prompt.iter().any(|p| p.peak_share.is_some_and(|share| share > 1.0)) {
            text += "above 100 %: other work slowed the measurement of the peak\n";
        }
        text
    }

    /// The table of depths, and the bandwidth that they are compared with.
    pub(crate) fn decodes(&self) -> String {
        if self.decode.is_empty() {
            return String::new();
        }
        let mut text = format!(
            "\n{:>8} {:>10} {:>10} {:>10} {:>8} {:>10} {:>9} {:>7} {:>6} {:>6}\n",
            "depth",
            "tok/s",
            "ms/tok",
            "MB/tok",
            "GB/s",
            "of read bw",
            "ops/tok",
            "allocs",
            "writes",
            "reads"
        );
        text.extend(self.decode.iter().map(Decode::row));
        match self.read_bandwidth {
            Some(bandwidth) => text += &format!("read bandwidth {:.2} GB/s\n", bandwidth / 1e9),
            None => text += "read bandwidth not measured: there is no room for the probe\n",
        }
        if self.decode.iter().any(|d| d.bandwidth_share.is_some_and(|share| share > 1.0)) {
            text +=
                "above 100 %: what is read stays in the processor's cache, or other work slowed the probe\n";
        }
        text
    }
}

impl Report {
    /// What was held at most.
    pub(crate) fn memory(&self) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let beyond = |bytes: u64| mib(bytes.saturating_sub(self.model_bytes));
        let mut text = format!(
            "memory: {:.1} MiB at most, estimated {:.1}; {:.1} beyond weights and KV cache",
            mib(self.high_water_bytes),
            mib(self.estimated_bytes),
            beyond(self.high_water_bytes)
        );
        if let Some(bytes) = self.device_bytes {
            text += &format!(", {:.1} with kernels, libraries and what is kept free", beyond(bytes));
        }
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn speeds_follow_from_the_median() {
        let decode = Decode::new(0, 1000, vec![0.5, 0.25, 100.0], PerStep::default());
        assert_eq!((decode.tokens_per_second, decode.bytes_per_second), (2.0, 2000.0));
        let prompt = Prompt::new(8, 4000.0, vec![0.5, 0.25, 100.0], Vec::new());
        assert_eq!((prompt.tokens_per_second, prompt.flops_per_second), (16.0, 8000.0));
        assert_eq!((prompt.flops_per_token, prompt.first_token), (500.0, None));
    }

    #[test]
    fn shares_are_of_the_limits() {
        let prompt = vec![Prompt::new(8, 4000.0, vec![0.5], vec![0.75])];
        let decode = vec![Decode::new(0, 1000, vec![0.5], PerStep::default())];
        let mut report = Report { prompt, decode, ..Report::default() };
        assert!(report.prompts().contains("not measured"), "{}", report.prompts());
        report.compare_with(Some(4000.0), Some(1e12), false);
        assert!(report.prompts().contains("peak of own kernels 1.000 TFLOP/s"), "{}", report.prompts());
        report.compare_with(Some(4000.0), Some(10_000.0), true);
        assert!(report.prompts().contains("peak of products"), "{}", report.prompts());
        assert_eq!((report.prompt[0].peak_share, report.decode[0].bandwidth_share), (Some(0.8), Some(0.5)));
        assert!(report.prompts().contains("80.0 %") && report.decodes().contains("50.0 %"));
    }
}
