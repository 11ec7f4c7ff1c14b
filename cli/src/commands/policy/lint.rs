//! `picket policy lint`: checks a directory as the control plane and the proxies do.

use picket_policy::{PolicySet, Settings, Severity};
use serde_json::json;

use super::placed;
use crate::args::{Format, LintCommand};
use crate::exit::{Exit, Failure};
use crate::output;

pub(super) fn run(command: LintCommand) -> Result<Exit, Failure> {
    let LintCommand { dir, root_namespace, output } = command;
    let settings = Settings { root_namespace, ..Settings::default() };
    if !dir.is_dir() {
        return Err(Failure::Usage(format!("{}: there is no such directory", dir.display())));
    }
    let (generation, files, problems) = match picket_policy_files::read(&dir) {
        Err(problems) => (None, 0, problems),
        Ok(documents) => match PolicySet::parse(&documents, settings) {
            Ok(set) => (Some(set.generation()), documents.len(), set.warnings().clone()),
            Err(problems) => (None, documents.len(), problems),
        },
    };
    let errors = problems.iter().filter(|p| p.severity == Severity::Error).count();
    let warnings = problems.len() - errors;
    match output.format {
        Format::Json => output::json(&json!({
            "directory": dir,
            "files": files,
            "generation": generation,
            "errors": errors,
            "warnings": warnings,
            "diagnostics": problems,
        }))?,
        Format::Table => {
            for problem in &problems {
                output::line(&placed(&dir, problem).to_string())?;
            }
            let verdict = if errors == 0 { "ok" } else { "refused" };
            let counts = [(files, "file"), (errors, "error"), (warnings, "warning")];
            let counts = counts.map(|(count, thing)| output::counted(count, thing));
            eprintln!("{verdict}: {}", counts.join(", "));
        }
    }
    Ok(if errors == 0 { Exit::Fine } else { Exit::Problems })
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
