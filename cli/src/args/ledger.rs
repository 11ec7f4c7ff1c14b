//! `picket audit accounts`, `verify`, `bundle`, `prove`, `erase`

use std::path::PathBuf;

use clap::Args;

use super::OutputArguments;

#[derive(Args)]
pub(crate) struct AccountsArguments {
    /// From this minute on: 1h ago, or a time (RFC 3339)
    #[arg(long, value_name = "WHEN", default_value = "1h")]
    pub(crate) since: String,
    /// Up to this minute: 5m ago, or a time (RFC 3339)
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
    /// Only of this workload's proxy: a SPIFFE ID or NS/SA
    #[arg(long, value_name = "WHO")]
    pub(crate) emitter: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Args)]
pub(crate) struct VerifyArguments {
    /// Only records since then: 1d ago, or a time (RFC 3339); left out: all
    #[arg(long, value_name = "WHEN", conflicts_with = "offline")]
    pub(crate) since: Option<String>,
    /// Check this bundle, and ask nobody
    #[arg(long, value_name = "BUNDLE")]
    pub(crate) offline: Option<PathBuf>,
    /// The log's key must be this one (NAME+HASH+BASE64)
    #[arg(long, value_name = "KEY")]
    pub(crate) log_key: Option<String>,
    /// The mesh's authorities must be these: a file in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) authorities: Option<PathBuf>,
    /// A checkpoint that was seen elsewhere, such as at a proxy's /witness; the log must continue it
    #[arg(long, value_name = "FILE")]
    pub(crate) known: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Args)]
pub(crate) struct BundleArguments {
    /// Where to
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Only records since then: 1d ago, or a time (RFC 3339); left out: all
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
}

#[derive(Args)]
pub(crate) struct ProveArguments {
    /// The record
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Args)]
pub(crate) struct EraseArguments {
    /// Records
    #[arg(required = true)]
    pub(crate) ids: Vec<String>,
    /// Why, for the audit trail
    #[arg(long)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}
