//! `picket policy`: commands that work on recorded requests and on the live mesh.

use std::path::PathBuf;

use clap::Args;

use super::OutputArguments;

/// Which recorded requests are meant.
#[derive(Args)]
pub(crate) struct SinceArguments {
    /// Not before: 24h ago, or a time (RFC 3339)
    #[arg(long, value_name = "WHEN", default_value = "24h")]
    pub(crate) since: String,
    /// Before: 5m ago, or a time (RFC 3339); left out: now
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
    /// The caller: a SPIFFE ID or NS/SA; left out: all
    #[arg(long, value_name = "WHO")]
    pub(crate) source: Option<String>,
    /// The called workload: a SPIFFE ID or NS/SA; left out: all
    #[arg(long, value_name = "WHO")]
    pub(crate) destination: Option<String>,
}

#[derive(Args)]
pub(crate) struct ReplayCommand {
    /// The candidate: a policy directory
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) since: SinceArguments,
    /// Exit with status 1 also if something would be newly allowed
    #[arg(long)]
    pub(crate) fail_on_allowed: bool,
    /// Exit with status 1 also if something cannot be told
    #[arg(long)]
    pub(crate) fail_on_undecidable: bool,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Args)]
pub(crate) struct LearnCommand {
    #[command(flatten)]
    pub(crate) since: SinceArguments,
    /// Directory to make, with one file for each called workload; left out: standard output
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Args)]
pub(crate) struct UnusedCommand {
    /// A policy directory; left out: the set in force
    #[arg(long, value_name = "DIR")]
    pub(crate) policies: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) since: SinceArguments,
    /// Exit with status 1 if there are unused rules
    #[arg(long)]
    pub(crate) exit_code: bool,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Args)]
pub(crate) struct ApplyCommand {
    /// The policy directory that shall come into force
    pub(crate) dir: PathBuf,
    /// Wait until every proxy has taken it up or refused it
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait for the proxies
    #[arg(long, value_name = "DURATION", default_value = "30s", requires = "wait")]
    pub(crate) timeout: String,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}
