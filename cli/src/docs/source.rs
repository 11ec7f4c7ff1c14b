//! Reads the sources: what stands in which file, in which function, and as which argument.

use std::path::{Path, PathBuf};

/// A path below the workspace.
pub(crate) fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(relative)
}

pub(super) fn read(relative: &str) -> String {
    let path = path(relative);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The texts of a Rust file, or of all below a directory but the tests.
pub(super) fn all(relative: &str) -> Vec<String> {
    let path = path(relative);
    if path.is_file() {
        return vec![read(relative)];
    }
    let mut names: Vec<String> = std::fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "tests.rs" && name != "generated")
        .collect();
    names.sort();
    let is_source = |name: &String| name.ends_with(".rs") || !name.contains('.');
    names
        .iter()
        .filter(|name| is_source(name))
        .flat_map(|name| all(&format!("{relative}/{name}")))
        .collect()
}

/// The values of all text constants.
pub(super) fn constants(source: &str) -> Vec<String> {
    let lines = source.lines().map(str::trim).filter(|line| line.starts_with("pub const "));
    let values = lines.filter_map(|line| line.split_once(": &str = \"")?.1.strip_suffix("\";"));
    values.map(str::to_owned).collect()
}

/// The texts in the body of the first function of that name after `item`.
pub(super) fn strings_of(source: &str, item: &str, function: &str) -> Vec<String> {
    let start = source.find(item).map(|at| at + item.len());
    let start = start.and_then(|at| Some(at + source.get(at..)?.find(&format!("{function}("))?));
    let Some((before, rest)) = start.map(|at| source.split_at(at)) else { return Vec::new() };
    // rustfmt puts the end of a function right below its beginning.
    let line = before.lines().last().unwrap_or_default();
    let indent = line.len() - line.trim_start().len();
    let end = format!("\n{}}}", " ".repeat(indent));
    strings(rest.split(&end).next().unwrap_or(rest))
}

/// The first text among the arguments of each call.
pub(super) fn first_arguments(source: &str, call: &str) -> Vec<String> {
    let calls = source.split(call).skip(1);
    let arguments = calls.map(|rest| rest.split_once(';').map_or(rest, |(call, _)| call));
    arguments.filter_map(|arguments| strings(arguments).into_iter().next()).collect()
}

/// Texts in double quotes; none of ours has an escaped one that matters here.
fn strings(source: &str) -> Vec<String> {
    source.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}
