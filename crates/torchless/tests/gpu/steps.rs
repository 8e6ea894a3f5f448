//! What a decoding step costs beside its kernels.

use std::sync::Arc;

use torchless::{
    Config, Counters, CudaBackend, DType, GenerateOptions, KernelBackend, LoadOptions, Model, ModelShape,
    SampleParams, Session,
};

use crate::common::{generate, ids, made};
use crate::difference;

/// Allocations, writes and reads; captures and replays.
type Cost = ([u64; 3], [u64; 2]);

const ISSUED: Cost = ([0, 0, 1], [0, 0]);
const CAPTURED: Cost = ([0, 0, 1], [1, 0]);
const REPLAYED: Cost = ([0, 0, 1], [0, 1]);

/// Tokens before an answer whose steps come to row 4096 of the cache, and those of the answer.
const PROMPT: usize = 4090;
const ANSWER: usize = 20;

/// The cost of the second step of an answer, of the third, and so on to the last.
fn costs(session: &mut Session<CudaBackend>, sampling: SampleParams) -> Vec<Cost> {
    session.truncate(PROMPT - 10);
    let prompt: Vec<u32> = ids(PROMPT - session.tokens().len()).iter().map(|id| id % 1000).collect();
    let backend = session.model().backend().clone();
    let options = GenerateOptions { sampling, ..generate(ANSWER) };
    let tokens = session.generate_ids(&prompt, &options).unwrap();
    let after: Vec<Counters> = tokens.map(|token| token.map(|_| backend.counters()).unwrap()).collect();
    assert_eq!(after.len(), ANSWER);
    let cost = |pair: &[Counters]| {
        let [before, after] = [pair[0], pair[1]];
        let graphs = [after.captures - before.captures, after.replays - before.replays];
        (difference(after, before), graphs)
    };
    // With a token the step after it was queued, and the read of what that chooses; with the last one nothing.
    after[..ANSWER - 1].windows(2).map(cost).collect()
}

/// From row 4096 of the cache on, a step looks through twice as many: that is another graph, so that one step is issued and one
/// captured. Nothing is written, and one id read, whatever the types, however the id is chosen.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_step_costs_one_read_and_a_longer_cache_one_capture() {
    let by_chance =
        SampleParams { temperature: 0.8, top_k: 40, top_p: 0.9, seed: 5, ..SampleParams::default() };
    let penalized = SampleParams { repetition_penalty: 1.1, ..SampleParams::default() };
    let shape = ModelShape { n_layers: 2, vocab_size: 1000, ..ModelShape::named("llama-3.2-1b").unwrap() };
    let want: Vec<Cost> = (2..ANSWER)
        .map(|step| match (step, PROMPT + step) {
            // Rows of the cache with the one that the step adds.
            (_, 4097) => ISSUED,
            (2, _) | (_, 4098) => CAPTURED,
            _ => REPLAYED,
        })
        .collect();
    for dtype in DType::FLOATS {
        let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
        let model =
            Model::random(&Arc::new(made(|b| b)), Config::from_shape(shape.clone()), 1, &options).unwrap();
        let mut session = model.session(8192).unwrap();
        // The first step over the longer cache may take scratch for parts that no longer meet in clusters: once in a backend.
        let mut first = costs(&mut session, SampleParams::default());
        let crossing = want.iter().position(|cost| *cost == ISSUED).unwrap();
        assert!(first[crossing].0[0] <= 1, "{dtype}: {first:?}");
        first[crossing].0[0] = 0;
        assert_eq!(first, want, "{dtype}");
        for sampling in [by_chance, penalized, SampleParams::default()] {
            assert_eq!(costs(&mut session, sampling), want, "{dtype}, {sampling:?}");
        }
    }
}
