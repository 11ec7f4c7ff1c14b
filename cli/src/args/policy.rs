//! `picket policy`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ApplyCommand, LearnCommand, OutputArguments, ReplayCommand, UnusedCommand};

#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Checks policy files; each problem has its file, line, column and fix
    #[command(
        after_help = "Exit status: 0 no error, 1 errors.\n\nExample:\n  picket policy lint policies/"
    )]
    Lint(LintCommand),
    /// Decides what was recorded once more, by a candidate: who would break, who would be let in
    #[command(
        after_help = "Needs the role viewer. Exit status: 0 nothing would break, 1 something would.\n\n\
                            Examples:\n  picket policy replay policies/ --since 24h\n  \
                            picket policy replay policies/ --destination shop/orders -o json"
    )]
    Replay(ReplayCommand),
    /// Writes the least that recorded callers need, proven by a replay
    #[command(
        after_help = "Needs the role viewer. Exit status: 0 written, 1 nothing to learn from, or not proven.\n\n\
                            Examples:\n  picket policy learn --since 7d > learnt.yaml\n  \
                            picket policy learn --destination shop/orders --out learnt/"
    )]
    Learn(LearnCommand),
    /// Lists rules that no recorded request matches
    #[command(
        after_help = "Needs the role viewer.\n\nExample:\n  picket policy unused --since 30d"
    )]
    Unused(UnusedCommand),
    /// Puts a directory of policies in force, and waits for what each proxy says
    #[command(
        after_help = "Needs the role admin. Exit status: 0 in force, and with --wait at every proxy; 1 the policies are \
                            refused, or a proxy refused them or said nothing in time.\n\n\
                            Example:\n  picket policy apply policies/ --wait"
    )]
    Apply(ApplyCommand),
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
