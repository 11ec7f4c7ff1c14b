//! `picket policy`, and what commands that decide offline share.

mod lint;

use std::path::Path;

use picket_policy::{DefaultAction, Diagnostic, Diagnostics, MtlsMode, PolicySet, Settings};

use crate::args::{ActionArgument, MeshArguments, MtlsArgument, PolicyCommand};
use crate::exit::{Exit, Failure};

pub(crate) fn run(command: PolicyCommand) -> Result<Exit, Failure> {
    match command {
        PolicyCommand::Lint(command) => lint::run(command),
    }
}

/// The set of a directory, or what is wrong with it in words.
pub(super) fn load(directory: &Path, mesh: &MeshArguments) -> Result<PolicySet, Failure> {
    let refused = |problems: &_| Failure::Problems(words(directory, problems));
    let documents = picket_policy_files::read(directory).map_err(|problems| refused(&problems))?;
    PolicySet::parse(&documents, settings(mesh)).map_err(|problems| refused(&problems))
}

fn settings(mesh: &MeshArguments) -> Settings {
    Settings {
        default_action: match mesh.default_action {
            ActionArgument::Allow => DefaultAction::Allow,
            ActionArgument::Deny => DefaultAction::Deny,
        },
        default_mtls: match mesh.default_mtls {
            MtlsArgument::Strict => MtlsMode::Strict,
            MtlsArgument::Permissive => MtlsMode::Permissive,
            MtlsArgument::Disable => MtlsMode::Disable,
        },
        root_namespace: mesh.root_namespace.clone(),
        trust_domain: mesh.trust_domain.clone(),
        trust_domain_aliases: mesh.trust_domain_alias.clone(),
    }
}

/// A problem with its file as the reader of the terminal finds it.
fn placed(directory: &Path, problem: &Diagnostic) -> Diagnostic {
    // A directory that cannot be read is named as it is, not within itself.
    let is_itself = Path::new(&*problem.file) == directory;
    let file = if is_itself { directory.to_owned() } else { directory.join(&*problem.file) };
    let file = file.display().to_string();
    Diagnostic { file: file.into(), ..problem.clone() }
}

/// Problems in words, each with its file as the reader of the terminal finds it.
fn words(directory: &Path, problems: &Diagnostics) -> String {
    let lines: Vec<String> = problems.iter().map(|p| placed(directory, p).to_string()).collect();
    lines.join("\n")
}
