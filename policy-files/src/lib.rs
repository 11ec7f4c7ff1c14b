//! Policy directories: reading them, and noticing that they, or other files, change.
//!
//! The control plane, a proxy that runs from files and the operator's commands all read a directory
//! with [`read`], so that all of them see the same policies. What policies mean is the business of
//! [`picket_policy`].
#![forbid(unsafe_code)]

mod changes;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use picket_policy::{Diagnostic, Diagnostics, Document, Severity};

pub use changes::Changes;

/// Files that are read.
const MAX_FILES: usize = 10_000;
/// Bytes of all files together.
const MAX_BYTES: u64 = 64 << 20;
/// Levels of directories.
const MAX_DEPTH: usize = 16;

/// The codes of what is wrong with a directory itself, beside those of [`picket_policy`].
pub mod code {
    /// A file or directory cannot be read.
    pub const UNREADABLE: &str = "D0001";
    /// A file is empty.
    pub const EMPTY: &str = "D0002";
    /// Too many files, bytes or levels.
    pub const TOO_MUCH: &str = "D0003";
}

/// Reads every `*.yaml` and `*.yml` below a directory, in the order of their names.
///
/// Names that begin with a dot are left out, which is also what makes Kubernetes' volumes come out
/// right: their files are links into `..data`, and are read through those links once. A file that is
/// empty is refused, not taken for "no policies": an editor that writes in two steps would otherwise
/// take a policy out of force for a moment.
///
/// # Errors
/// With all that cannot be read; nothing of such a directory is to be used.
pub fn read(directory: &Path) -> Result<Vec<Document>, Diagnostics> {
    let mut reader = Reader { documents: Vec::new(), problems: Vec::new(), bytes: 0 };
    reader.directory(directory, "", 0);
    match reader.problems.as_slice() {
        [] => Ok(reader.documents),
        _ => Err(reader.problems.into_iter().collect()),
    }
}

struct Reader {
    documents: Vec<Document>,
    problems: Vec<Diagnostic>,
    bytes: u64,
}

impl Reader {
    fn directory(&mut self, path: &Path, relative: &str, depth: usize) {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return self.unreadable(path, relative, &error),
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') {
                continue;
            }
            let relative =
                if relative.is_empty() { name.clone() } else { format!("{relative}/{name}") };
            // Through links: what they point to is what counts.
            match fs::metadata(entry.path()) {
                Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => {
                    self.directory(&entry.path(), &relative, depth + 1);
                }
                Ok(kind) if kind.is_dir() => self.problem(
                    &relative,
                    code::TOO_MUCH,
                    format!("directories are nested more than {MAX_DEPTH} deep"),
                    "move the files up, or remove a link that leads back",
                ),
                Ok(_) if !is_policy(&name) => {}
                Ok(kind) if kind.is_file() => self.file(&entry.path(), &relative),
                Ok(_) => {}
                Err(error) if is_policy(&name) => self.unreadable(&entry.path(), &relative, &error),
                Err(_) => {}
            }
        }
    }

    fn file(&mut self, path: &Path, relative: &str) {
        if self.documents.len() >= MAX_FILES || self.bytes > MAX_BYTES {
            if self.problems.iter().all(|p| p.code != code::TOO_MUCH) {
                self.problem(
                    relative,
                    code::TOO_MUCH,
                    format!("more than {MAX_FILES} files or {MAX_BYTES} bytes"),
                    "name a directory that holds only the mesh's policies",
                );
            }
            return;
        }
        let mut text = String::new();
        let read = File::open(path).and_then(|file| {
            file.take(MAX_BYTES + 1 - self.bytes.min(MAX_BYTES)).read_to_string(&mut text)
        });
        match read {
            Err(error) => self.unreadable(path, relative, &error),
            Ok(0) => self.problem(
                relative,
                code::EMPTY,
                "the file is empty".to_owned(),
                "finish writing it; remove it if its policies shall no longer hold",
            ),
            Ok(size) => {
                self.bytes += size as u64;
                self.documents.push(Document::whole(relative, text));
            }
        }
    }

    fn unreadable(&mut self, path: &Path, relative: &str, error: &io::Error) {
        let shown = if relative.is_empty() { path.display().to_string() } else { relative.into() };
        let fix = "make it readable for this program, or name another directory";
        self.problem(&shown, code::UNREADABLE, format!("cannot be read: {error}"), fix);
    }

    fn problem(&mut self, file: &str, code: &'static str, message: String, help: &str) {
        self.problems.push(Diagnostic {
            file: file.into(),
            line: 1,
            column: 1,
            severity: Severity::Error,
            code,
            message,
            help: help.to_owned(),
            fix: None,
        });
    }
}

fn is_policy(name: &str) -> bool {
    name.ends_with(".yaml") || name.ends_with(".yml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_in_order_through_links_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("..2026")).unwrap();
        fs::create_dir_all(root.join("team")).unwrap();
        fs::write(root.join("..2026/a.yaml"), "a").unwrap();
        std::os::unix::fs::symlink("..2026", root.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
        fs::write(root.join("team/b.yml"), "b").unwrap();
        fs::write(root.join("README.md"), "no policy").unwrap();
        let documents = read(root).unwrap();
        let names: Vec<&str> = documents.iter().map(|d| d.file.as_ref()).collect();
        assert_eq!(names, ["a.yaml", "team/b.yml"]);
    }

    #[test]
    fn what_cannot_be_read_refuses_the_whole() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::write(root.join("a.yaml"), "a").unwrap();
        fs::write(root.join("half.yaml"), "").unwrap();
        fs::write(root.join("latin.yaml"), [0x61, 0xe9]).unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("dangling.yaml")).unwrap();
        std::os::unix::fs::symlink(".", root.join("loop")).unwrap();
        let problems = read(root).unwrap_err();
        let files: Vec<&str> = problems.iter().map(|p| p.file.as_ref()).collect();
        assert!(files.contains(&"dangling.yaml") && files.contains(&"half.yaml"), "{files:?}");
        assert!(files.contains(&"latin.yaml"), "{files:?}");
        assert!(read(&root.join("missing")).is_err());
    }
}
