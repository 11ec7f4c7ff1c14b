//! `picket respond`

use clap::{Args, Subcommand};

use super::OutputArguments;

#[derive(Subcommand)]
pub(crate) enum RespondCommand {
    /// Lists what was suggested, done and undone
    List {
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Shows one: the alert that caused it with its records, and each step with its time and who
    Show {
        /// Its id
        id: String,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Does what was suggested; it ends by itself when its time is over
    #[command(
        after_help = "Exit status: 0 done, and with --wait enforced by every proxy that is connected; 1 a proxy \
                            refused it or said nothing in time.\n\nExample:\n  picket respond approve 5f3cd6d8a1b2 --wait"
    )]
    Approve(ApproveArguments),
    /// Undoes what was done, or takes back what was suggested
    Revert {
        /// Its id
        id: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// The kill switch: nothing more is done or approved until `resume`
    Halt {
        /// What was done does not stand any more either
        #[arg(long)]
        revert: bool,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Releases the kill switch
    Resume {
        #[command(flatten)]
        output: OutputArguments,
    },
}

#[derive(Args)]
pub(crate) struct ApproveArguments {
    /// Its id
    pub(crate) id: String,
    /// Wait until every proxy that is connected enforces it; fails if one refuses it or says nothing in time
    #[arg(long)]
    pub(crate) wait: bool,
    /// With --wait: how long
    #[arg(long, value_name = "DURATION", default_value = "30s", requires = "wait")]
    pub(crate) timeout: String,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}
