//! `picket profile` and `picket anomalies`

use clap::{Args, Subcommand};

use super::OutputArguments;

#[derive(Subcommand)]
pub(crate) enum ProfileCommand {
    /// The services that have a profile
    List {
        #[command(flatten)]
        output: OutputArguments,
    },
    /// What is usual for a service: its callers, their calls, how many at which hour, how long, how large
    #[command(after_help = "Examples:\n  picket profile show payments\n  \
                            picket profile show spiffe://shop.example/ns/shop/sa/payments -o json")]
    Show {
        /// The service: its SPIFFE ID, or the last part of it
        #[arg(value_name = "WORKLOAD")]
        workload: String,
        #[command(flatten)]
        output: OutputArguments,
    },
}

#[derive(Args)]
pub(crate) struct AnomaliesArguments {
    /// Those that are over too
    #[arg(long)]
    pub(crate) all: bool,
    /// Raised not before: 24h ago, or a time (RFC 3339)
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}
