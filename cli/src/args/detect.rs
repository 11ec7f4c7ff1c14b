//! `picket rules` and `picket detect`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::OutputArguments;

#[derive(Subcommand)]
pub(crate) enum RulesCommand {
    /// Checks rule files; each problem has its file, line, column and fix
    #[command(
        after_help = "Exit status: 0 no error, 1 errors.\n\nExample:\n  picket rules lint rules/"
    )]
    Lint(RulesArguments),
    /// Holds each rule against the events that have to match and those that must not
    #[command(
        after_help = "Exit status: 0 all passed, 1 a rule matched what it must not, missed what it must match, or has \
                            no test.\n\nExample:\n  picket rules test rules/"
    )]
    Test(RulesTestArguments),
    /// Lists rules: level, title, tags, where they stand
    #[command(after_help = "Example:\n  picket rules list rules/ -o json | jq '.[].tags'")]
    List(RulesArguments),
}

#[derive(Args)]
pub(crate) struct RulesArguments {
    /// The directory of the rules; left out: those that Picket comes with
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Args)]
pub(crate) struct RulesTestArguments {
    /// The directory of the rules; their `x-picket.tests` name files of events beside them
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Subcommand)]
pub(crate) enum DetectCommand {
    /// Runs recorded events through the rules, in their own time, and prints the alerts
    #[command(
        after_help = "The events are a JSON object a line, as `picket audit search -o jsonl` prints them. The same events \
                            give the same alerts.\n\nExamples:\n  \
                            picket audit search --since 24h -o jsonl | picket detect replay --events -\n  \
                            picket detect replay --events events.jsonl --rules rules/ -o json"
    )]
    Replay(DetectReplayArguments),
}

#[derive(Args)]
pub(crate) struct DetectReplayArguments {
    /// The events; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) events: PathBuf,
    /// The directory of the rules; left out: those that Picket comes with
    #[arg(long, value_name = "DIR")]
    pub(crate) rules: Option<PathBuf>,
    /// Rules alone: nothing is learnt, and no anomaly is found
    #[arg(long)]
    pub(crate) no_profiles: bool,
    /// False alarms of profiles that are accepted for one service in a week; more finds more
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = budget, conflicts_with = "no_profiles")]
    pub(crate) budget: f64,
    /// How to print; json is one object a line
    #[arg(short, long, value_enum, env = "PICKET_OUTPUT", default_value = "table")]
    pub(crate) output: AlertFormat,
}

fn budget(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.01..=1_000.0).contains(number));
    number.ok_or_else(|| "a number from 0.01 to 1000, such as 1".to_owned())
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AlertFormat {
    Table,
    #[value(alias = "jsonl")]
    Json,
}
