//! `kernel!` declarations, read as text.

use crate::Result;

/// A kernel as its launcher in Rust declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// Of the kernel, its files and its entry.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Threads of a block.
    pub block: u32,
    /// Bytes of shared memory that a block is given at its launch.
    pub shared: u32,
    /// Element types it is compiled for: `f32`, or `f32-bf16` for scalar and weight.
    pub types: Vec<String>,
    /// Targets it is compiled for.
    pub targets: Vec<String>,
}

/// How CUDA declares a parameter that describes a matrix to the copy engine.
const TENSOR_MAP: &str = "const __grid_constant__ TensorMap";

/// A parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name, the same in Rust and in CUDA.
    pub name: String,
    /// Its type as CUDA spells it.
    pub c: String,
}

impl Param {
    /// Its type as PTX declares it; of an array with its length at the end, which PTX puts behind the name.
    pub fn ptx(&self) -> &'static str {
        match self.c.as_str() {
            "u32" => ".u32",
            "f32" => ".f32",
            TENSOR_MAP => ".align 64 .b8[128]",
            _ => ".u64",
        }
    }
}

/// The declaration in a Rust file, if it has one.
///
/// # Errors
/// Another form than
/// `kernel! { fn NAME(ARG: TYPE, …), block = N, [shared = N,] types = "…", targets = "…" }`, after the documentation.
pub fn parse(rust: &str) -> Result<Option<Declaration>> {
    let Some((_, body)) = rust.split_once("\nkernel! {") else { return Ok(None) };
    let code: Vec<&str> = body.lines().map(str::trim).filter(|line| !line.starts_with("//")).collect();
    let code = code.join(" ");
    let (name, rest) = between(&code, "fn ", "(")?;
    let (params, rest) = between(rest, "", ")")?;
    let (block, rest) = between(rest, "block = ", ",")?;
    let shared = between(rest, "shared = ", ",").map_or("0", |found| found.0);
    let (types, rest) = between(rest, "types = \"", "\"")?;
    let (targets, _) = between(rest, "targets = \"", "\"")?;
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let params = split_params(params).map(param).collect::<Result<_>>()?;
    let number =
        |what, text: &str| text.trim().parse().map_err(|_| format!("{what} `{text}` is not a number"));
    let (block, shared) = (number("block", block)?, number("shared", shared)?);
    Ok(Some(Declaration {
        name: name.to_owned(),
        params,
        block,
        shared,
        types: words(types),
        targets: words(targets),
    }))
}

/// What lies between two marks, and what follows.
fn between<'t>(text: &'t str, open: &str, close: &str) -> Result<(&'t str, &'t str)> {
    text.split_once(open)
        .and_then(|(_, rest)| rest.split_once(close))
        .ok_or_else(|| format!("`kernel!` lacks `{open}…{close}`"))
}

/// `name: Type` pairs, cut at the commas that separate parameters.
fn split_params(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    let cut = move |c: char| {
        depth += i32::from(c == '<') - i32::from(c == '>');
        c == ',' && depth == 0
    };
    text.split(cut).map(str::trim).filter(|param| !param.is_empty())
}

fn param(text: &str) -> Result<Param> {
    let (name, rust) = text.split_once(':').ok_or_else(|| format!("`{text}` is not `name: Type`"))?;
    let rust = rust.trim();
    let element = |prefix: &str| {
        let inner = rust.strip_prefix(prefix)?.strip_suffix('>')?;
        Some(match inner.trim() {
            "Scalar" => "scalar",
            "Weight" => "weight",
            other => other,
        })
    };
    let c = match (element("In<'a,"), element("Out<'a,"), rust) {
        (Some(e), _, _) => format!("const {e}*"),
        (_, Some(e), _) => format!("{e}*"),
        (_, _, "u32" | "u64" | "f32") => rust.to_owned(),
        (_, _, "TensorMap") => TENSOR_MAP.to_owned(),
        _ => return Err(format!("`{rust}` is no type of a kernel's parameter")),
    };
    Ok(Param { name: name.trim().to_owned(), c })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_read() {
        let rust = "//! Doc.\n\nkernel! {\n    /// fn x(y), block.\n    fn scale(out: Out<'a, Scalar>, w: In<'a, Weight>,\n        \
                    n: u64), block = 64, shared = 4096, types = \"f32 f16\", targets = \"compute_50\"\n}\n";
        let got = parse(rust).unwrap().unwrap();
        let params: Vec<_> = got.params.iter().map(|p| format!("{} {} {}", p.c, p.name, p.ptx())).collect();
        assert_eq!(params, ["scalar* out .u64", "const weight* w .u64", "u64 n .u64"]);
        assert_eq!((got.name.as_str(), got.block, got.shared, got.types.len()), ("scale", 64, 4096, 2));
    }

    #[test]
    fn other_forms_are_refused() {
        assert_eq!(parse("pub mod x;").unwrap(), None);
        let types = "block = 1, types = \"f32\", targets = \"compute_50\"";
        for (params, what) in [("n: usize", "usize"), ("n", "name: Type")] {
            let text = format!("\nkernel! {{ fn f({params}), {types} }}");
            assert!(parse(&text).unwrap_err().contains(what));
        }
        assert!(parse("\nkernel! { fn f(), types = \"f32\" }").unwrap_err().contains("block"));
    }
}
