//! `picket policy lint`: checks a directory as the control plane and the proxies do, says what it may not mean, and mends
//! what can be mended without a doubt.

use std::fs;

use picket_policy::lint::{Options, fix::Edited};
use picket_policy::testing::PolicyTest;
use picket_policy::{Diagnostic, Diagnostics, Document, Generation, PolicySet, Settings, Severity};
use serde_json::json;

use super::placed;
use crate::args::{Format, LintCommand};
use crate::exit::{Exit, Failure};
use crate::output::{self, counted};

/// What was found in a directory.
struct Report {
    generation: Option<Generation>,
    files: usize,
    problems: Diagnostics,
}

/// What was mended.
#[derive(Default)]
struct Mended {
    changes: usize,
    /// In how many files.
    files: usize,
    diff: String,
}

pub(super) fn run(command: &LintCommand) -> Result<Exit, Failure> {
    let dir = &command.dir;
    if !dir.is_dir() {
        return Err(Failure::Usage(format!("{}: there is no such directory", dir.display())));
    }
    let (report, mended) = match picket_policy_files::read(dir) {
        Err(problems) => (Report { generation: None, files: 0, problems }, Mended::default()),
        Ok(documents) if command.fix => mend(command, &documents)?,
        Ok(documents) => (look(command, &documents), Mended::default()),
    };
    let problems = &report.problems;
    let errors = problems.iter().filter(|p| p.severity == Severity::Error).count();
    let warnings = problems.len() - errors;
    match command.output.format {
        Format::Json => {
            let mut value = json!({
                "directory": dir,
                "files": report.files,
                "generation": report.generation,
                "errors": errors,
                "warnings": warnings,
                "diagnostics": problems,
            });
            if let (true, Some(object)) = (command.fix, value.as_object_mut()) {
                object.insert("fixed".to_owned(), json!(mended.changes));
                object.insert("diff".to_owned(), json!(mended.diff));
            }
            output::json(&value)?;
        }
        Format::Table => {
            if command.dry_run && !mended.diff.is_empty() {
                output::line(mended.diff.trim_end_matches('\n'))?;
            }
            for problem in problems {
                output::line(&placed(dir, problem).to_string())?;
            }
            if command.fix {
                let (changes, files) =
                    (counted(mended.changes, "change"), counted(mended.files, "file"));
                let what = if command.dry_run { "would be made" } else { "made" };
                eprintln!("{changes} {what} in {files}");
            }
            let verdict = if errors == 0 { "ok" } else { "refused" };
            let counts = [(report.files, "file"), (errors, "error"), (warnings, "warning")];
            let counts = counts.map(|(count, thing)| counted(count, thing));
            eprintln!("{verdict}: {}", counts.join(", "));
        }
    }
    let is_fine = errors == 0 && (warnings == 0 || !command.strict);
    Ok(if is_fine { Exit::Fine } else { Exit::Problems })
}

/// Checks documents, and the tests among them.
fn look(command: &LintCommand, documents: &[Document]) -> Report {
    let settings =
        Settings { root_namespace: command.root_namespace.clone(), ..Settings::default() };
    let options = Options { tcp_ports: command.tcp_port.clone() };
    let (generation, policies) = match PolicySet::parse(documents, settings) {
        Ok(set) => (Some(set.generation()), set.lint(&options)),
        Err(problems) => (None, problems),
    };
    // What is wrong with a file itself is said by both.
    let tests = documents.iter().filter_map(|document| PolicyTest::read(document).err());
    let tests: Vec<Diagnostic> =
        tests.flat_map(|problems| problems.iter().cloned().collect::<Vec<_>>()).collect();
    let mut problems: Vec<Diagnostic> = policies.iter().cloned().chain(tests).collect();
    problems.sort();
    problems.dedup();
    Report { generation, files: documents.len(), problems: problems.into_iter().collect() }
}

/// Makes the changes that problems offer until none is left: behind errors there may be warnings.
fn mend(command: &LintCommand, documents: &[Document]) -> Result<(Report, Mended), Failure> {
    let mut edited: Vec<Edited> =
        documents.iter().map(|document| Edited::new(&document.text)).collect();
    let mut mended = Mended::default();
    let report = loop {
        let texts = documents.iter().zip(&edited);
        let texts = texts.map(|(document, now)| Document::whole(&*document.file, now.text()));
        let report = look(command, &texts.collect::<Vec<_>>());
        let mut made = 0;
        for (document, now) in documents.iter().zip(&mut edited) {
            made += now.apply(report.problems.iter().filter(|p| p.file == document.file));
        }
        if made == 0 {
            break report;
        }
        mended.changes += made;
    };
    for (document, now) in documents.iter().zip(&edited) {
        let path = command.dir.join(&*document.file);
        let diff = now.diff(&path.display().to_string());
        if diff.is_empty() {
            continue;
        }
        mended.files += 1;
        mended.diff.push_str(&diff);
        if !command.dry_run {
            let written = fs::write(&path, now.text());
            written.map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
        }
    }
    Ok((report, mended))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::words;
    use super::*;
    use crate::docs;

    const DOCUMENT: &str = "docs/policy.md";

    #[test]
    fn mistakes_are_shown_as_the_document_shows_them() {
        let directory = tempfile::tempdir().unwrap();
        let text = docs::block(DOCUMENT, "yaml", "# policies/orders.yaml");
        std::fs::write(directory.path().join("orders.yaml"), text).unwrap();
        let documents = picket_policy_files::read(directory.path()).unwrap();
        let problems = PolicySet::parse(&documents, Settings::default()).unwrap_err();
        let shown = docs::shown(DOCUMENT, "policy lint policies");
        assert_eq!(shown.len(), 1);
        assert_eq!(words(Path::new("policies"), &problems) + "\n", shown[0].1);
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_named_once() {
        let problems = picket_policy_files::read(Path::new("nowhere")).unwrap_err();
        let words = words(Path::new("nowhere"), &problems);
        assert!(words.starts_with("nowhere:1:1: error[D0001]"), "{words}");
    }
}
