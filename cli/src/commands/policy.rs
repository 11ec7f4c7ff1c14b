//! `picket policy`

use std::path::Path;

use picket_policy::{Diagnostic, Diagnostics, PolicySet, Settings, Severity};
use serde_json::json;

use crate::args::{Format, PolicyCommand};
use crate::exit::{Exit, Failure};
use crate::output;

pub(crate) fn run(command: PolicyCommand) -> Result<Exit, Failure> {
    let PolicyCommand::Lint { dir, root_namespace, output } = command;
    let settings = Settings { root_namespace, ..Settings::default() };
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
            eprintln!("{verdict}: {files} files, {errors} errors, {warnings} warnings");
        }
    }
    Ok(if errors == 0 { Exit::Fine } else { Exit::Problems })
}

/// A problem with its file as the reader of the terminal finds it.
fn placed(directory: &Path, problem: &Diagnostic) -> Diagnostic {
    let file = directory.join(&*problem.file).display().to_string();
    Diagnostic { file: file.into(), ..problem.clone() }
}

/// Problems in words, each with its file as the reader of the terminal finds it.
pub(super) fn words(directory: &Path, problems: &Diagnostics) -> String {
    let lines: Vec<String> = problems.iter().map(|p| placed(directory, p).to_string()).collect();
    lines.join("\n")
}
