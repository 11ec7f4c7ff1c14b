//! `picket respond`

use clap::Subcommand;

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
    #[command(after_help = "Example:\n  picket respond approve 5f3cd6d8a1b2")]
    Approve {
        /// Its id
        id: String,
        #[command(flatten)]
        output: OutputArguments,
    },
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
