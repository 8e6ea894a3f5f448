//! PTX: what its header and entry say.

use crate::declaration::Declaration;
use crate::project::ISA;

/// What is wrong with a PTX text, compared with the declaration in Rust and the target it is for.
pub fn problems(ptx: &str, declared: &Declaration, target: &str) -> Vec<String> {
    let mut problems = Vec::new();
    match version(ptx) {
        Some(version) if version <= ISA => {}
        Some((major, minor)) => {
            problems.push(format!(
                "ISA {major}.{minor} is newer than {}.{}, which drivers must take",
                ISA.0, ISA.1
            ));
        }
        None => problems.push("no `.version`".to_owned()),
    }
    let architecture = target.replace("compute", "sm");
    if directive(ptx, ".target").is_none_or(|got| got.split(',').next() != Some(&architecture)) {
        problems.push(format!("`.target` is not {architecture}"));
    }
    let (got, want) = (entry(ptx), rendered(declared));
    if got.as_ref() != Some(&want) {
        let got = got.unwrap_or_else(|| "no entry, or several".to_owned());
        problems.push(format!("declares\n  {got}\nwhere the Rust declaration says\n  {want}"));
    }
    problems
}

fn directive<'p>(ptx: &'p str, name: &str) -> Option<&'p str> {
    ptx.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn version(ptx: &str) -> Option<(u32, u32)> {
    let (major, minor) = directive(ptx, ".version")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The only entry with its white space evened out: name, parameters and block. How many blocks a multiprocessor should hold is no
/// matter of a launch.
fn entry(ptx: &str) -> Option<String> {
    let (_, rest) = ptx.split_once(".visible .entry ")?;
    if rest.contains(".entry ") {
        return None;
    }
    let (declaration, _) = rest.split_once('{')?;
    let declaration = declaration.split_once(".minnctapersm").map_or(declaration, |(entry, _)| entry);
    Some(declaration.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn rendered(declared: &Declaration) -> String {
    let name = &declared.name;
    let param = |(i, p): (usize, &crate::declaration::Param)| {
        let (of, length) = p.ptx().find('[').map_or((p.ptx(), ""), |at| p.ptx().split_at(at));
        format!(".param {of} {name}_param_{i}{length}")
    };
    let params: Vec<_> = declared.params.iter().enumerate().map(param).collect();
    format!("{name}( {} ) .maxntid {}, 1, 1", params.join(", "), declared.block)
}
