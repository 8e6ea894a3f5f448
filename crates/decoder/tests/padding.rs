//! Prompts that are padded so that chunks of about one length can share a captured step.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use conformance::toy::ToyBackend;
use decoder::{Config, LoadOptions, Model, Session};
use memory_estimate::ModelShape;

const CONTEXT: usize = 24;

fn session(backend: ToyBackend) -> Session<ToyBackend> {
    let shape = ModelShape {
        hidden_size: 16,
        intermediate_size: 24,
        n_layers: 2,
        vocab_size: 33,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 8,
        ..ModelShape::named("tiny-shakespeare").unwrap()
    };
    let options = LoadOptions { prefill_chunk: Some(10), ..LoadOptions::default() };
    Model::random(&Arc::new(backend), Config::from_shape(shape), 3, &options)
        .unwrap()
        .session(CONTEXT)
        .unwrap()
}

/// Logits of every position of a prompt that comes in two turns, and of the steps after it up to the end of the context.
fn all(session: &mut Session<ToyBackend>, turns: [usize; 2]) -> Vec<Vec<f32>> {
    let ids: Vec<u32> = (0..CONTEXT as u32).map(|i| (i * i + 5) % 33).collect();
    session.truncate(0);
    let end = turns[0] + turns[1];
    let mut rows = session.logits(&ids[..turns[0]], &(0..turns[0]).collect::<Vec<_>>()).unwrap();
    rows.extend(session.logits(&ids[turns[0]..end], &(turns[0]..end).collect::<Vec<_>>()).unwrap());
    rows.extend(ids[end..].iter().map(|id| session.step_logits(*id).unwrap()));
    rows
}

const TURNS: [[usize; 2]; 6] = [[1, 1], [3, 4], [7, 2], [9, 14], [11, 13], [4, 20]];

#[test]
fn padding_changes_no_logits() {
    let mut plain = session(ToyBackend::new());
    for multiple in [1, 4, 8, 10, 11] {
        let mut padded = session(ToyBackend::padding(multiple));
        for turns in TURNS {
            let (want, got) = (all(&mut plain, turns), all(&mut padded, turns));
            assert_eq!(want.len(), CONTEXT);
            assert!(want == got, "{turns:?} padded to a multiple of {multiple}");
        }
    }
}
