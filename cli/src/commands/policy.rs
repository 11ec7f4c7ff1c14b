//! `picket policy`, and what commands that decide offline share.

mod apply;
mod diff;
mod export;
mod learn;
mod lint;
mod replay;
mod test;
mod unused;

use std::collections::BTreeMap;
use std::path::Path;

use picket_policy::{
    DefaultAction, Diagnostic, Diagnostics, Document, MtlsMode, PolicySet, Settings, Workload,
};

use crate::args::{ActionArgument, ControlArguments, MeshArguments, MtlsArgument, PolicyCommand};
use crate::exit::{Exit, Failure};

pub(crate) async fn run(
    command: PolicyCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    match command {
        PolicyCommand::Lint(command) => lint::run(&command),
        PolicyCommand::Test(command) => test::run(&command),
        PolicyCommand::Diff(command) => diff::run(&command),
        PolicyCommand::Replay(command) => replay::run(&command, control).await,
        PolicyCommand::Learn(command) => learn::run(&command, control).await,
        PolicyCommand::Unused(command) => unused::run(&command, control).await,
        PolicyCommand::Apply(command) => apply::run(&command, control).await,
        PolicyCommand::Export(command) => export::run(&command),
    }
}

/// The set of a directory, or what is wrong with it in words.
pub(super) fn load(directory: &Path, mesh: &MeshArguments) -> Result<PolicySet, Failure> {
    read(directory, settings(mesh))
}

/// The same, with settings that are known.
pub(super) fn read(directory: &Path, settings: Settings) -> Result<PolicySet, Failure> {
    let documents = documents(directory)?;
    PolicySet::parse(&documents, settings)
        .map_err(|problems| Failure::Problems(words(directory, &problems)))
}

/// The files of a directory, or what is wrong with them in words.
fn documents(directory: &Path) -> Result<Vec<Document>, Failure> {
    if !directory.is_dir() {
        return Err(Failure::Usage(format!("{}: there is no such directory", directory.display())));
    }
    picket_policy_files::read(directory)
        .map_err(|problems| Failure::Problems(words(directory, &problems)))
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

/// A workload as the command line names it.
pub(super) fn workload(destination: &str, labels: &[String]) -> Result<Workload, Failure> {
    let Some((namespace, name)) = destination
        .split_once('/')
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
    else {
        let words = format!("--destination {destination:?} is not NAMESPACE/WORKLOAD");
        return Err(Failure::Usage(words));
    };
    Ok(Workload {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: self::labels(labels)?,
    })
}

/// Labels as the command line has them.
pub(super) fn labels(labels: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |label: &String| {
        let (key, value) = label
            .split_once('=')
            .ok_or_else(|| Failure::Usage(format!("--label {label:?} is not K=V")))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    labels.iter().map(pair).collect()
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
