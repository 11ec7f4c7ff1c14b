//! `picket alerts`

use clap::{Args, Subcommand, ValueEnum};

use super::OutputArguments;

#[derive(Subcommand)]
pub(crate) enum AlertsCommand {
    /// Lists alerts: those that go on, or all
    #[command(
        after_help = "Examples:\n  picket alerts list\n  picket alerts list --all --severity high -o json\n  \
                            picket alerts list --follow"
    )]
    List(AlertsListArguments),
    /// Shows one alert: what was found, in which records, and what has become of it
    Show {
        /// Its id
        id: String,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Says that somebody has seen to an alert
    #[command(after_help = "Example:\n  picket alerts ack 5f3c… --note 'a load test of ours'")]
    Ack {
        /// Its id
        id: String,
        /// What there is to say of it
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        /// In place of whoever has seen to it already
        #[arg(long)]
        again: bool,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Tells nobody of alerts that fit, for a time; they are kept and shown all the same
    #[command(
        after_help = "Example:\n  picket alerts silence --field 'picket.source=*/sa/loadtest' --for 2h --reason 'load test'"
    )]
    Silence {
        /// Of rules whose id or title fits, `*` stands for anything
        #[arg(long, value_name = "PATTERN")]
        rule: Option<String>,
        /// Of those that are exactly so bad
        #[arg(long, value_enum, value_name = "LEVEL")]
        severity: Option<Severity>,
        /// Of those whose group has a value that fits: FIELD=PATTERN, `*` stands for anything
        #[arg(long = "field", value_name = "FIELD=PATTERN")]
        fields: Vec<String>,
        /// How long, at most 31d
        #[arg(long = "for", value_name = "DURATION")]
        length: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Lifts a silence; who was not told of what still goes on is told then
    Unsilence {
        /// Its id
        id: String,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// The silences that stand
    Silences {
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Who is told of alerts, and how that goes
    Sinks {
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Tells every sink that nothing has happened, to see whether it hears
    #[command(after_help = "Exit status: 0 each was told, 1 one was not.")]
    Test {
        /// Only this sink
        #[arg(long, value_name = "NAME")]
        sink: Option<String>,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// The rules at work, and what has come of each since it was loaded
    Rules {
        #[command(flatten)]
        output: OutputArguments,
    },
}

#[derive(Args)]
pub(crate) struct AlertsListArguments {
    /// Those that are over too
    #[arg(long)]
    pub(crate) all: bool,
    /// At least so bad
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub(crate) severity: Option<Severity>,
    /// Of this rule: its id
    #[arg(long, value_name = "ID")]
    pub(crate) rule: Option<String>,
    /// Raised not before: 24h ago, or a time (RFC 3339)
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Raised before: 1h ago, or a time
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
    /// In this state
    #[arg(long, value_enum, value_name = "STATE")]
    pub(crate) state: Option<State>,
    /// New ones as they are raised, a line each, until Ctrl-C
    #[arg(long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum State {
    Firing,
    Acknowledged,
    Silenced,
    Digest,
    Flapping,
    Resolved,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Acknowledged => "acknowledged",
            Self::Silenced => "silenced",
            Self::Flapping => "flapping",
            Self::Digest => "digest",
            Self::Resolved => "resolved",
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Severity {
    Informational,
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "informational",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}
