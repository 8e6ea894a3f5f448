//! What the help says.

use crate::run::torchless;

#[test]
fn help_says_the_defaults() {
    let text = torchless(["generate", "--help"]).ok();
    for part in
        ["[default: 256]", "[default: 0.8]", "[default: 0.95]", "built-in model", "4096", "[default: auto]"]
    {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
    for command in ["generate", "verify"] {
        let text = torchless([command, "--help"]).ok();
        assert!(text.contains("what the model is stored in") && !text.contains("shape"), "{text}");
    }
    let text = torchless(["bench", "--help"]).ok();
    for part in ["512,2048", "0,512,3584", "tiny-shakespeare", "llama-3.2-1b", "mistral-7b", "llama-3.1-8b"] {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
    let text = torchless(["verify", "--help"]).ok();
    for part in ["1e-10", "docs/verify.md"] {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
    assert!(torchless(["--help"]).ok().contains("130"));
    assert!(torchless(["--version"]).ok().starts_with("torchless "));
}

#[test]
fn wrong_usage_is_one_line() {
    torchless::<&str>([]).fails(2, &["--help"]);
    torchless(["generat"]).fails(2, &["generat", "generate"]);
    torchless(["generate", "--prompt", "x", "--nonsense"]).fails(2, &["--nonsense"]);
    torchless(["verify"]).fails(2, &["--golden"]);
    for command in
        [&["generate", "--prompt", "x"][..], &["verify", "--golden", "x"], &["bench"], &["estimate"]]
    {
        for (option, wrong) in [("--dtype", "u32"), ("--kv-dtype", "u32"), ("--prefill-chunk", "0")] {
            torchless(command.iter().chain(&[option, wrong])).fails(2, &[option]);
        }
    }
}
