//! `picket policy`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::OutputArguments;

#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Checks policy files; each problem has its file, line, column and fix
    #[command(
        after_help = "Exit status: 0 no error, 1 errors.\n\nExample:\n  picket policy lint policies/"
    )]
    Lint(LintCommand),
}

#[derive(Args)]
pub(crate) struct LintCommand {
    /// The directory; all its *.yaml and *.yml files are read
    pub(crate) dir: PathBuf,
    /// The namespace whose policies apply to the whole mesh
    #[arg(long, default_value = "istio-system", value_name = "NS")]
    pub(crate) root_namespace: String,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}
