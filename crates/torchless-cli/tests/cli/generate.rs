//! Text generation.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;

use torchless::{GenerateOptions, LoadOptions, Model};

use crate::run::{command, golden_texts, tiny, tiny_arg, torchless};

const GREEDY: [&str; 7] = ["generate", "--device", "cpu", "--temperature", "0", "--max-tokens", "64"];

fn greedy(more: &[&str]) -> crate::run::Ended {
    let model = tiny_arg();
    torchless(GREEDY.iter().chain(&["--model", &model]).chain(more))
}

#[test]
fn golden_texts_are_exact() {
    for (prompt, text) in golden_texts() {
        assert_eq!(greedy(&["--echo", "--prompt", &prompt]).ok(), text);
        let answer = text.strip_prefix(&prompt).unwrap();
        assert_eq!(greedy(&["--dtype", "f32", "--threads", "1", "--prompt", &prompt]).ok(), answer);
    }
}

#[cfg(feature = "builtin-model")]
#[test]
fn the_built_in_model_is_the_same_one() {
    for (prompt, text) in golden_texts() {
        assert_eq!(torchless(GREEDY.iter().chain(&["--echo", "--prompt", &prompt])).ok(), text);
    }
}

#[cfg(not(feature = "builtin-model"))]
#[test]
fn without_a_built_in_model_one_must_be_given() {
    torchless(["generate", "--prompt", "x"]).fails(2, &["--model", "--shape"]);
}

#[test]
fn statistics_go_to_standard_error() {
    let ended = greedy(&["--prompt", "ROMEO:"]);
    for part in ["loaded in", "tok/s", "MiB in use", "MiB at most", "--max-tokens reached", "context 1024"] {
        assert!(ended.stderr.contains(part), "{ended:?}");
        assert!(!ended.stdout.contains(part), "{ended:?}");
    }
}

#[test]
fn cache_and_chunk_are_what_is_asked_for() {
    let (prompt, text) = golden_texts().swap_remove(0);
    let run = |more: &[&str]| {
        let ended = greedy(&[&["--echo", "--dtype", "f32", "--prompt", &prompt], more].concat());
        assert_eq!(ended.status, Some(0), "{ended:?}");
        // In f32 alone the text is promised.
        assert!(ended.stdout == text || more.contains(&"f16"), "{ended:?}");
        ended.stderr
    };
    // Of which the chunk makes the activations small, and the type the cache.
    let most = |notes: &str| -> f64 {
        let (before, _) = notes.split_once(" MiB at most").unwrap();
        before.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let (whole, chunked, halved) =
        (run(&[]), run(&["--prefill-chunk", "3"]), run(&["--prefill-chunk", "3", "--kv-dtype", "f16"]));
    assert!(most(&whole) > most(&chunked) && most(&chunked) > most(&halved), "{whole}{chunked}{halved}");
    assert!(halved.contains(": f32, KV cache in f16 on cpu ("), "{halved}");
    assert!(!whole.contains("KV cache"), "{whole}");
}

#[test]
fn prompts_come_from_a_file_or_from_standard_input() {
    let (prompt, text) = golden_texts().swap_remove(0);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    fs::write(&file, &prompt).unwrap();
    assert_eq!(greedy(&["--echo", "--prompt-file", file.to_str().unwrap()]).ok(), text);
    for from_stdin in [&["-"][..], &["--prompt-file", "-"]] {
        let model = tiny_arg();
        let more = ["--echo", "--model", &model];
        let mut command = command(GREEDY.iter().chain(&more).chain(from_stdin));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(prompt.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
    }
}

#[test]
fn a_prompt_may_begin_with_a_hyphen() {
    assert!(greedy(&["--echo", "--prompt", "- a list"]).ok().starts_with("- a list"));
}

#[test]
fn a_prompt_of_several_chunks_is_continued_as_the_library_does() {
    let long = "To be, or not to be, that is the question. ".repeat(40);
    let backend = Arc::new(torchless::init_backend(torchless::BackendPreference::Cpu).unwrap());
    let model = Model::load(&backend, tiny(), &LoadOptions::default()).unwrap();
    let mut session = model.session(1024).unwrap();
    let options = GenerateOptions { max_tokens: 64, ..GenerateOptions::default() };
    let expected: String =
        session.generate(&long, &options).unwrap().map(|token| token.unwrap().text).collect();
    let prompt = session.tokens().len() - 64;
    assert!(prompt > model.prefill_chunk());
    let ended = greedy(&["--prompt", &long]);
    assert!(ended.stderr.contains(&format!("prompt: {prompt} tokens")), "{ended:?}");
    assert_eq!(ended.ok(), expected);
}

#[test]
fn stop_texts_end_the_text_and_are_not_shown() {
    let (prompt, text) = golden_texts().swap_remove(0);
    let answer = text.strip_prefix(&prompt).unwrap();
    let ended = greedy(&["--prompt", &prompt, "--stop", "nowhere", "--stop", "I did"]);
    assert!(ended.stderr.contains("stop text"), "{ended:?}");
    assert_eq!(ended.ok(), answer.split("I did").next().unwrap());
}

#[test]
fn the_seed_decides() {
    let model = tiny_arg();
    let sample = |more: &[&str]| {
        let args = [
            "generate",
            "--model",
            &model,
            "--prompt",
            "ROMEO:",
            "--max-tokens",
            "40",
            "--temperature",
            "1.5",
        ];
        torchless(args.iter().chain(more))
    };
    let first = sample(&[]);
    let seed = first.stderr.lines().find_map(|line| line.strip_prefix("seed ")).unwrap().to_owned();
    let first = first.ok();
    assert_eq!(sample(&["--seed", &seed]).ok(), first);
    let others = (0..4).map(|other| sample(&["--seed", &format!("9{other}")]).ok());
    assert!(others.into_iter().any(|text| text != first));
}

#[test]
fn a_full_context_ends_the_text() {
    let ended = greedy(&["--context", "16", "--prompt", "ROMEO:"]);
    assert!(ended.stderr.contains("context full"), "{ended:?}");
    assert!(!ended.ok().is_empty());
}

#[test]
fn no_tokens_may_be_asked_for() {
    let model = tiny_arg();
    let args = ["generate", "--model", &model, "--echo", "--prompt", "ROMEO:", "--max-tokens", "0"];
    assert_eq!(torchless(args).ok(), "ROMEO:");
}

#[test]
fn values_outside_their_range_are_usage_errors() {
    for (option, value) in [
        ("--temperature", "NaN"),
        ("--temperature", "-0.5"),
        ("--temperature", "inf"),
        ("--top-p", "0"),
        ("--top-p", "1.5"),
        ("--min-p", "-1"),
        ("--min-p", "NaN"),
        ("--repeat-penalty", "0"),
        ("--threads", "0"),
        ("--context", "0"),
        ("--context", "1025"),
        ("--dtype", "q4"),
        ("--device", "gpu"),
        ("--stop", ""),
        ("--max-tokens", "many"),
    ] {
        greedy_with(option, value).fails(2, &[option]);
    }
}

fn greedy_with(option: &str, value: &str) -> crate::run::Ended {
    let model = tiny_arg();
    torchless(["generate", "--model", &model, "--prompt", "x", &format!("{option}={value}")])
}

#[test]
fn prompts_that_cannot_be_used_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt");
    let path = file.to_str().unwrap();
    greedy(&["--prompt-file", path]).fails(1, &[path, "give a text file"]);
    fs::write(&file, b"abc\xff").unwrap();
    greedy(&["--prompt-file", path]).fails(1, &[path, "byte 3", "UTF-8"]);
    greedy(&["--prompt-file", path, "--prompt", "x"]).fails(2, &["--prompt"]);
    greedy(&[]).fails(2, &["--prompt"]);
    greedy(&["--prompt", ""]).fails(2, &["give some text"]);
}

#[test]
fn usage_errors_name_the_option_that_helps() {
    let said = |args: &[&str]| {
        let ended = torchless(["generate"].iter().chain(args));
        ended.fails(2, &[]);
        ended.stderr
    };
    assert_eq!(
        said(&["hi"]),
        "error: invalid value 'hi' for '[-]': give the text with --prompt TEXT, or - to read it from standard input; \
         try --help\n"
    );
    let model = tiny_arg();
    let with = |option, value| said(&["--model", &model, "--prompt", "x", option, value]);
    assert!(with("--threads", "0").starts_with("error: --threads: "));
    assert!(with("--stop", "").starts_with("error: --stop: "));
}

#[test]
fn a_prompt_longer_than_the_context_is_an_error() {
    let ended =
        greedy(&["--context", "8", "--echo", "--prompt", "The quick brown fox jumps over the lazy dog."]);
    ended.fails(1, &["context holds 8 tokens", "shorter prompt"]);
    assert_eq!(ended.stdout, "");
}
