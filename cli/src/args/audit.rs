//! `picket audit`

use clap::{Args, Subcommand, ValueEnum};

use super::{
    AccountsArguments, BundleArguments, EraseArguments, OutputArguments, ProveArguments,
    VerifyArguments,
};

#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// Finds audit records, counts them, or waits for more; every condition that is set has to match
    #[command(after_help = "Fields and operators: docs/search.md\n\n\
                            Examples:\n  picket audit search --decision deny --since 1h\n  \
                            picket audit search 'status >= 500 and path ~ \"/orders/*\"' --follow\n  \
                            picket audit search --since 1d --group-by source,destination,decision\n  \
                            picket audit search --trace 0af7651916cd43dd8448eb211c80319c -o json")]
    Search(Box<SearchArguments>),
    /// Prints the hashes by which records name the subject of a token
    ///
    /// One for each key that there has been. Needs the role admin, and is recorded.
    #[command(after_help = "Examples:\n  picket audit subject-hash ana\n  \
                            picket audit subject-hash ana -o json | jq -r '.hashes[].hash'")]
    SubjectHash(SubjectHashArguments),
    /// Accounts for every record: emitted = stored + open + pending + lost + missing, by minute
    #[command(after_help = "Exit status: 0 nothing is missing, 1 something is.\n\n\
                            Examples:\n  picket audit accounts --since 10m\n  \
                            picket audit accounts --emitter shop/orders -o json")]
    Accounts(AccountsArguments),
    /// Proves that the audit trail is complete, in order and unchanged, or names what is not
    ///
    /// Believes neither the control plane nor its database: every record, the log, its checkpoints and the
    /// heads that proxies signed are checked here. What was good is remembered in $XDG_STATE_HOME/picket,
    /// so that a log which forgets it, or has another key, is found out.
    #[command(after_help = "Exit status: 0 all is good, 1 something is wrong.\n\n\
                            Examples:\n  picket audit verify\n  picket audit verify --since 1d -o json\n  \
                            picket audit verify --offline trail.jsonl --log-key \"$KEY\"")]
    Verify(VerifyArguments),
    /// Keeps all that `picket audit verify` needs in one file
    #[command(after_help = "Example:\n  picket audit bundle --out trail.jsonl")]
    Bundle(BundleArguments),
    /// Proves to a stranger that a record is in the signed log
    #[command(
        after_help = "Example:\n  picket audit prove 0c9b1f6e-93a6-4a0e-8a5e-0f7f2d8f3b11-0-17 -o json > proof.json"
    )]
    Prove(ProveArguments),
    /// Erases what records say; the log and every proof stay good
    ///
    /// Needs the role admin, and is recorded. Copies that were exported are not reached.
    #[command(
        after_help = "Example:\n  picket audit erase 0c9b1f6e-93a6-4a0e-8a5e-0f7f2d8f3b11-0-17 --reason 'case 1234'"
    )]
    Erase(EraseArguments),
}

#[derive(Args)]
pub(crate) struct SubjectHashArguments {
    /// The subject, as tokens have it (sub)
    pub(crate) subject: String,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Args)]
pub(crate) struct SearchArguments {
    /// A filter, such as 'decision = deny and destination = shop/orders and time > 1h ago'
    pub(crate) filter: Option<String>,
    /// Requests with a token of this subject, under every key of its hashes; needs the role admin, and is recorded
    #[arg(long, value_name = "NAME")]
    pub(crate) subject: Option<String>,
    /// Not before: 1h ago, or a time (RFC 3339)
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Before: 5m ago, or a time (RFC 3339)
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
    /// The record with this id
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// The trace
    #[arg(long, value_name = "ID")]
    pub(crate) trace: Option<String>,
    /// The decision named by the header x-picket-decision-id
    #[arg(long, value_name = "ID")]
    pub(crate) decision_id: Option<String>,
    /// The caller: a SPIFFE ID or NS/SA
    #[arg(long, value_name = "WHO")]
    pub(crate) source: Option<String>,
    /// The called workload: a SPIFFE ID or NS/SA
    #[arg(long, value_name = "WHO")]
    pub(crate) destination: Option<String>,
    /// The workload whose proxy made the record: a SPIFFE ID or NS/SA
    #[arg(long, value_name = "WHO")]
    pub(crate) emitter: Option<String>,
    /// The method
    #[arg(long)]
    pub(crate) method: Option<String>,
    /// A prefix of the path
    #[arg(long, value_name = "PREFIX")]
    pub(crate) path: Option<String>,
    /// The status, such as 403 or 4xx
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// What was decided
    #[arg(long, value_parser = ["allow", "deny"])]
    pub(crate) decision: Option<String>,
    /// The policy that decided: NAMESPACE/NAME
    #[arg(long)]
    pub(crate) policy: Option<String>,
    /// The code of the reason
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// What the record is about
    #[arg(long, value_parser = ["request", "connection", "event"])]
    pub(crate) kind: Option<String>,
    /// An act of the control plane, such as enrollment.join
    #[arg(long)]
    pub(crate) event: Option<String>,
    /// Towards the service, or away from it
    #[arg(long, value_parser = ["inbound", "outbound"])]
    pub(crate) direction: Option<String>,
    /// At most this many records, the latest; left out: all
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,
    /// Go on with new records as they come, until Ctrl-C; with --limit the latest ones first
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Count records by what they share, such as source,destination,decision
    #[arg(long, value_name = "FIELDS", conflicts_with = "follow")]
    pub(crate) group_by: Option<String>,
    /// How to print; groups only as table, json or csv
    #[arg(short, long, value_enum, env = "PICKET_OUTPUT", default_value = "table")]
    pub(crate) output: SearchFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SearchFormat {
    Table,
    Json,
    Jsonl,
    Csv,
    /// OCSF events, a line each
    Ocsf,
}

#[derive(Args)]
pub(crate) struct TapArguments {
    /// A filter besides, as of `picket audit search`
    pub(crate) filter: Option<String>,
    /// What became of the request
    #[arg(long, value_enum)]
    pub(crate) verdict: Option<TapVerdict>,
    /// The caller: NAMESPACE/SERVICE-ACCOUNT or a SPIFFE ID
    #[arg(long, value_name = "WHO")]
    pub(crate) from: Option<String>,
    /// The called workload: likewise
    #[arg(long, value_name = "WHO")]
    pub(crate) to: Option<String>,
    /// The path; * stands for any text
    #[arg(long, value_name = "PATTERN")]
    pub(crate) path: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: TapFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TapVerdict {
    Allow,
    Deny,
    /// Allowed or denied, and dry-run policies would have decided otherwise
    DryRun,
    /// Answered 5xx, or broken off
    Error,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TapFormat {
    Text,
    Jsonl,
}
