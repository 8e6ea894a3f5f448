//! Tokenizers of every kind that the model families use, and random texts through all of them.

use std::path::Path;

use backend_api::{Error, random};
use serde_json::{Value, json};

use super::{TextStream, Tokenizer};

/// Words, spaces in all places, scripts of two to four bytes, emojis of several code points, and what is no letter.
const SNIPPETS: [&str; 16] =
    [" ", "  ", "\n", "the", " the", "a", "ab", "é", "ß", "你", "好", " 你好", "🦀", "👩‍👩‍👧", "\u{0}", "▁"];

fn shakespeare() -> Tokenizer {
    let path = "../torchless-cli/models/tiny-shakespeare/tokenizer.json";
    Tokenizer::from_file(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn parse(json: &Value) -> Tokenizer {
    Tokenizer::from_bytes(json.to_string()).unwrap()
}

fn special(id: usize, token: &str) -> Value {
    json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": true})
}

fn vocab(tokens: &[String]) -> Value {
    tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), json!(id)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Puts `token` before a text that begins a conversation.
fn begins_with(id: usize, token: &str) -> Value {
    json!({"type": "TemplateProcessing",
           "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
           "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}}})
}

/// SentencePiece's pieces as Llama 2 and the first Mistral have them; characters outside the vocabulary are bytes.
fn pieces_json() -> Value {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    tokens
        .extend(["▁", "▁▁", "a", "b", "t", "h", "e", "th", "the", "▁the", "ab", "é", "你"].map(String::from));
    json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "post_processor": begins_with(1, "<s>"),
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab(&tokens),
                  "merges": ["▁ ▁", "t h", "th e", "▁ the", "a b"]},
    })
}

/// The same pieces with the Metaspace rules that newer conversions write.
fn metaspace_json() -> Value {
    let mut json = pieces_json();
    let rules = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
    json["normalizer"] = Value::Null;
    json["pre_tokenizer"] = rules.clone();
    json["decoder"] = json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, rules]});
    json
}

/// Byte-level pieces as Llama 3 has them, some of which cut characters: `ä½` are the first two bytes of 你.
fn bytes_json() -> Value {
    let mut alphabet: Vec<_> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().map(String::from).collect();
    alphabet.sort();
    alphabet.extend(["th", "the", "Ġthe", "ä½", "ä½ł", "ðŁ", "ĠðŁ"].map(String::from));
    let (begin, end) = (alphabet.len(), alphabet.len() + 1);
    json!({
        "version": "1.0",
        "added_tokens": [special(begin, "<|begin_of_text|>"), special(end, "<|eot_id|>")],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\s?\\p{L}+|\\s+(?!\\S)|\\s+|[^\\s\\p{L}]+"},
             "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
        "post_processor": begins_with(begin, "<|begin_of_text|>"),
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "ignore_merges": true, "vocab": vocab(&alphabet),
                  "merges": ["t h", "th e", "Ġ the", "ä ½", "ä½ ł", "ð Ł", "Ġ ðŁ"]},
    })
}

fn all() -> [(&'static str, Tokenizer); 4] {
    [
        ("shakespeare", shakespeare()),
        ("pieces", parse(&pieces_json())),
        ("metaspace", parse(&metaspace_json())),
        ("bytes", parse(&bytes_json())),
    ]
}

/// A number below `n` for step `i` of case `case`.
fn below(n: usize, case: usize, i: usize) -> usize {
    random::philox(case as u64, i as u64)[0] as usize % n
}

fn random_text(case: usize) -> String {
    (0..1 + below(20, case, 999)).map(|i| SNIPPETS[below(SNIPPETS.len(), case, i)]).collect()
}

/// The text of each token, and last what the end of the stream adds.
fn stream(mut stream: TextStream, ids: &[u32]) -> Vec<String> {
    let mut pieces: Vec<_> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.finish());
    pieces
}

#[test]
fn texts_survive_the_way_to_ids_and_back_in_pieces() {
    for (name, tokenizer) in all() {
        for case in 0..500 {
            // U+2581 is a space to SentencePiece, and the Metaspace rules add none before a space.
            let text = random_text(case).replace('▁', "_");
            let text = if name == "metaspace" { format!("a{text}") } else { text };
            let ids = tokenizer.encode(&text).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{name}");
            let pieces = stream(TextStream::new(&tokenizer), &ids);
            assert_eq!(pieces.concat(), text, "{name}: {ids:?}");
            assert_eq!(pieces.last().unwrap(), "", "{name}: nothing is left of a complete text");
        }
    }
}

#[test]
fn random_ids_give_the_text_of_all_of_them() {
    for (name, tokenizer) in all() {
        let byte = |b: u8| tokenizer.id_of(&format!("<0x{b:02X}>"));
        let is_byte = |id: u32| (0..=255).any(|b| byte(b) == Some(id));
        for case in 0..2_000 {
            let mut ids = Vec::new();
            for i in 0..below(30, case, 999) {
                // Ids beyond the vocabulary have no text.
                let id = below(tokenizer.vocab_size() + 3, case, i) as u32;
                if is_byte(id) {
                    // Whole characters only: text that is no UTF-8 is another test.
                    let text = SNIPPETS[below(SNIPPETS.len(), case, 500 + i)].replace('▁', "_");
                    ids.extend(text.bytes().filter_map(byte));
                } else {
                    ids.push(id);
                }
            }
            let pieces = stream(TextStream::new(&tokenizer), &ids);
            assert_eq!(pieces.concat(), tokenizer.decode(&ids).unwrap(), "{name}: {ids:?}");
        }
    }
}

#[test]
fn an_answer_continues_the_text_of_its_prompt() {
    for (name, tokenizer) in all() {
        for case in 0..300 {
            let prompt = tokenizer.encode(&random_text(case)).unwrap();
            let answer = tokenizer.encode_continuation(&random_text(case + 1_000)).unwrap();
            let pieces = stream(TextStream::after(&tokenizer, &prompt), &answer);
            let whole = tokenizer.decode(&[&prompt[..], &answer].concat()).unwrap();
            assert_eq!(
                tokenizer.decode(&prompt).unwrap() + &pieces.concat(),
                whole,
                "{name}: {prompt:?} {answer:?}"
            );
        }
    }
}

#[test]
fn a_piece_never_ends_within_a_character() {
    let (pieces, bytes) = (parse(&pieces_json()), parse(&bytes_json()));
    let crab = ["<0xF0>", "<0x9F>", "<0xA6>", "<0x80>"].map(|t| pieces.id_of(t).unwrap());
    assert_eq!(stream(TextStream::new(&pieces), &crab), ["", "", "", "🦀", ""]);
    let [a, space_the] = ["a", "▁the"].map(|t| pieces.id_of(t).unwrap());
    let ids = [space_the, crab[0], crab[1], crab[2], crab[3], space_the, a];
    assert_eq!(stream(TextStream::new(&pieces), &ids), ["the", "", "", "", "🦀", " the", "a", ""]);

    let ids = ["ĠðŁ", "¦", "Ģ", "the", "ä½", "ł"].map(|t| bytes.id_of(t).unwrap());
    assert_eq!(stream(TextStream::new(&bytes), &ids), [" ", "", "🦀", "the", "", "你", ""]);
}

#[test]
fn invalid_bytes_become_replacement_characters_and_nothing_else_is_lost() {
    let (pieces, bytes) = (parse(&pieces_json()), parse(&bytes_json()));
    let of = |tokens: &[&str]| -> Vec<u32> { tokens.iter().map(|t| pieces.id_of(t).unwrap()).collect() };
    let cases: [(&[&str], &[&str]); 6] = [
        (&["a", "<0xE4>", "<0xBD>"], &["a", "", "", "\u{fffd}"]),
        (&["a", "<0xE4>", "b"], &["a", "", "\u{fffd}b", ""]),
        (&["<0xE4>", "</s>", "<0xBD>", "<0xA0>"], &["", "", "", "你", ""]),
        (&["<0xFF>", "<0x41>", "▁the"], &["\u{fffd}", "A", " the", ""]),
        (&["a", "<0xE4>", "<0xE4>", "<0xBD>", "<0xA0>"], &["a", "", "\u{fffd}", "", "你", ""]),
        (&["a", "<0xC3>", "<0xA9>", "<0xFF>", "▁the"], &["a", "", "é", "\u{fffd}", " the", ""]),
    ];
    for (tokens, expected) in cases {
        assert_eq!(stream(TextStream::new(&pieces), &of(tokens)), expected, "{tokens:?}");
    }
    let ids = ["ä½", "the", "ä½"].map(|t| bytes.id_of(t).unwrap());
    assert_eq!(stream(TextStream::new(&bytes), &ids), ["", "\u{fffd}the", "", "\u{fffd}"]);
}

#[test]
fn a_finished_stream_begins_anew() {
    let tokenizer = parse(&pieces_json());
    let ids = tokenizer.encode("the 🦀").unwrap();
    let mut text = TextStream::new(&tokenizer);
    for _ in 0..2 {
        let pieces: String = ids[..ids.len() - 1].iter().map(|&id| text.push(id).unwrap()).collect();
        assert_eq!(pieces + &text.finish(), "the \u{fffd}");
    }
}

#[test]
fn special_tokens_come_from_the_post_processor_alone() {
    for (name, begin, end) in [("pieces", "<s>", "</s>"), ("bytes", "<|begin_of_text|>", "<|eot_id|>")] {
        let tokenizer = parse(&if name == "pieces" { pieces_json() } else { bytes_json() });
        let first = tokenizer.id_of(begin).unwrap();
        let ids = tokenizer.encode("the").unwrap();
        assert_eq!(ids[0], first);
        assert_eq!(tokenizer.encode_continuation("the").unwrap(), ids[1..]);
        assert!(tokenizer.is_special(first) && tokenizer.is_special(tokenizer.id_of(end).unwrap()));
        assert!(!tokenizer.is_special(ids[1]) && !tokenizer.is_special(u32::MAX));
        assert_eq!(tokenizer.id_of("<no such token>"), None);
    }
    assert_eq!(parse(&bytes_json()).vocab_size(), 256 + 7 + 2);
    let mut sparse = bytes_json();
    sparse["model"]["vocab"]["far"] = json!(5_000);
    assert_eq!(parse(&sparse).vocab_size(), 5_001);
}

#[test]
fn limits_of_the_training_run_do_not_apply() {
    let mut json = bytes_json();
    json["truncation"] =
        json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
                             "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    let ids = parse(&json).encode("thethethe the").unwrap();
    assert_eq!(ids, parse(&bytes_json()).encode("thethethe the").unwrap());
    assert_eq!(ids.len(), 5);
}

#[test]
fn texts_of_every_size_and_content_are_encoded() {
    let tokenizer = shakespeare();
    assert_eq!(tokenizer.decode(&tokenizer.encode("").unwrap()).unwrap(), "");
    for text in ["a".repeat(1 << 20), "👩‍👩‍👧".repeat(20_000), "\u{0}".repeat(1_000), "\r\n\t\u{fffd}".into()]
    {
        let ids = tokenizer.encode(&text).unwrap();
        assert!(stream(TextStream::new(&tokenizer), &ids).concat() == text, "{:?}…", text.chars().next());
    }
}

#[test]
fn every_id_has_a_text_or_none() {
    for (_, tokenizer) in all() {
        for id in (0..tokenizer.vocab_size() as u32 + 2).chain([u32::MAX]) {
            let pieces = stream(TextStream::new(&tokenizer), &[id]);
            assert_eq!(pieces.concat(), tokenizer.decode(&[id]).unwrap(), "{id}");
        }
    }
}

#[test]
fn what_is_no_tokenizer_is_an_error() {
    let mut long_merge = bytes_json();
    long_merge["model"]["merges"] = json!(["t hh"]);
    let mut huge_id = bytes_json();
    huge_id["added_tokens"][0]["id"] = json!(1u64 << 32);
    let mut empty = bytes_json();
    (empty["model"]["vocab"], empty["model"]["merges"], empty["added_tokens"]) =
        (json!({}), json!([]), json!([]));
    let texts = [
        "",
        "{}",
        "[]",
        "\u{0}",
        "{\"model\":",
        &"[".repeat(100_000),
        &long_merge.to_string(),
        &huge_id.to_string(),
        &empty.to_string(),
    ];
    for text in texts {
        let error = Tokenizer::from_bytes(text).err();
        assert!(matches!(error, Some(Error::Format { .. })), "{text:.60}: {error:?}");
    }
    let whole = pieces_json().to_string();
    for len in (0..whole.len()).step_by(97) {
        assert!(Tokenizer::from_bytes(&whole.as_bytes()[..len]).is_err());
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Tokenizer::from_file(dir.path()).err(), Some(Error::Format { .. })));
    let missing = Tokenizer::from_file(dir.path().join("tokenizer.json")).err().unwrap();
    assert!(
        matches!(&missing, Error::Io { .. }) && missing.to_string().contains("tokenizer.json"),
        "{missing}"
    );
}

#[test]
fn rules_that_make_the_library_panic_are_errors() {
    let mut json = pieces_json();
    json["decoder"] = json!({"type": "Strip", "content": "a", "start": 0, "stop": 5});
    let tokenizer = parse(&json);
    let a = tokenizer.id_of("a").unwrap();
    let error = TextStream::new(&tokenizer).push(a).err().unwrap();
    assert!(error.to_string().contains("decoding tokens failed"), "{error}");
}

#[test]
fn patterns_that_backtrack_without_end_are_given_up() {
    let mut json = bytes_json();
    json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("(?:(?=a)a|a)+b");
    let tokenizer = parse(&json);
    // Tried in full, this takes 2^2000 steps.
    let text = "a".repeat(2_000) + "d";
    assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), text);
}
