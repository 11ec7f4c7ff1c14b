//! The command line.

mod alerts;
mod audit;
mod authz;
mod detect;
mod ledger;
mod mesh;
mod policy;
mod profile;
mod recorded;
mod respond;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use alerts::{AlertsCommand, AlertsListArguments};
pub(crate) use audit::{
    AuditCommand, SearchArguments, SearchFormat, SubjectHashArguments, TapArguments, TapFormat,
    TapVerdict,
};
pub(crate) use authz::{AuthzCommand, CustomArgument, ExplainArguments};
pub(crate) use detect::{
    AlertFormat, DetectCommand, DetectReplayArguments, RulesArguments, RulesCommand,
    RulesTestArguments,
};
pub(crate) use ledger::{
    AccountsArguments, BundleArguments, EraseArguments, ProveArguments, VerifyArguments,
};
pub(crate) use mesh::{ActionArgument, MeshArguments, MtlsArgument};
pub(crate) use policy::{
    DiffCommand, ExportCommand, LintCommand, PolicyCommand, ProtocolArgument, TestCommand,
};
pub(crate) use profile::{AnomaliesArguments, ProfileCommand};
pub(crate) use recorded::{
    ApplyCommand, LearnCommand, ReplayCommand, SinceArguments, UnusedCommand,
};
pub(crate) use respond::{ApproveArguments, RespondCommand};

/// A service-mesh sidecar proxy with built-in security telemetry, and its control plane.
#[derive(Parser)]
#[command(name = "picket", version, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) control: ControlArguments,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach the control plane.
#[derive(Args)]
pub(crate) struct ControlArguments {
    /// The control plane: unix:PATH of its socket, or https://HOST:PORT of its operator listener
    #[arg(
        long,
        global = true,
        env = "PICKET_CONTROL",
        default_value = "unix:/var/lib/picket/control/control.sock",
        value_name = "ADDRESS"
    )]
    pub(crate) control: String,
    /// For https: the directory that `picket operator create --out` wrote
    #[arg(long, global = true, env = "PICKET_OPERATOR", value_name = "DIR")]
    pub(crate) operator: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Shows a mesh that enforces, explains and records, on this machine, in a minute
    #[command(after_help = "Examples:\n  picket demo\n  picket demo --keep\n  \
                            picket demo --jaeger http://127.0.0.1:4317")]
    Demo(DemoCommand),
    /// The control plane
    #[command(subcommand)]
    Control(ControlCommand),
    /// The sidecar proxy
    #[command(subcommand)]
    Proxy(ProxyCommand),
    /// Tokens with which workloads join the mesh
    #[command(subcommand)]
    JoinToken(JoinTokenCommand),
    /// Tokens that are refused although they are good in themselves
    #[command(subcommand)]
    Token(TokenCommand),
    /// Certificates that are refused although they are good in themselves
    #[command(subcommand)]
    Certificate(CertificateCommand),
    /// People and scripts that administer the mesh
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Policy files
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Authorization decisions
    #[command(subcommand)]
    Authz(AuthzCommand),
    /// The audit trail
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Requests of the whole mesh as they happen, a line each, until Ctrl-C
    #[command(
        after_help = "Each is shown once it has ended: by the callee's proxy, or by the caller's if it got no further.\n\n\
                            Examples:\n  picket tap --verdict deny\n  picket tap --from shop/web --to shop/orders --path '/orders/*'"
    )]
    Tap(TapArguments),
    /// Detection rules (Sigma)
    #[command(subcommand)]
    Rules(RulesCommand),
    /// What is suspicious in the audit trail
    #[command(subcommand)]
    Detect(DetectCommand),
    /// What was found in the audit trail as it came, and who is told
    #[command(subcommand)]
    Alerts(AlertsCommand),
    /// What was not as usual: alerts of profiles, with what was expected and what came
    #[command(
        after_help = "Examples:\n  picket anomalies\n  picket anomalies --all --since 24h -o json"
    )]
    Anomalies(AnomaliesArguments),
    /// What is usual for each service, learnt from the audit trail
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// What is done about alerts: suggested, approved, undone
    #[command(subcommand)]
    Respond(RespondCommand),
    /// Every proxy: the policy generation it enforces, its certificate, when it was last heard of
    #[command(
        after_help = "Examples:\n  picket status\n  picket status -o json | jq '.proxies[].state'"
    )]
    Status(StatusCommand),
    /// Looks the mesh over and says what is wrong and how to mend it
    #[command(
        after_help = "Exit status: 0 all is well (warnings included), 1 something failed.\n\n\
                            Examples:\n  picket check\n  picket check -o short"
    )]
    Check(CheckCommand),
    /// A service of the sample shop
    #[command(hide = true)]
    Shop {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(Args)]
pub(crate) struct DemoCommand {
    /// Leave the mesh running at the end, until Ctrl-C
    #[arg(long)]
    pub(crate) keep: bool,
    /// Send traces there (OTLP/gRPC); without it, to 127.0.0.1:4317 if something listens
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub(crate) jaeger: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum ControlCommand {
    /// Runs the control plane
    #[command(after_help = "Example:\n  picket control run --config examples/config/control.yaml")]
    Run {
        /// control.yaml; every key can be overridden by an environment variable
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub(crate) enum ProxyCommand {
    /// Runs a sidecar, with a control plane or from files alone
    #[command(after_help = "Example:\n  picket proxy run --config examples/config/proxy.yaml")]
    Run {
        /// proxy.yaml; every key can be overridden by an environment variable
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub(crate) enum JoinTokenCommand {
    /// Makes a token that admits one workload, once; it is shown only now
    #[command(
        after_help = "Examples:\n  picket join-token create --workload shop/orders --ttl 10m\n  \
                            picket join-token create --workload shop/orders -o json | jq -r .token"
    )]
    Create {
        /// Whom it admits: NAMESPACE/SERVICE-ACCOUNT
        #[arg(long, value_name = "NS/SA")]
        workload: String,
        /// How long it is good for
        #[arg(long, default_value = "10m", value_name = "DURATION")]
        ttl: String,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Lists tokens, without the tokens themselves
    List {
        #[command(flatten)]
        output: OutputArguments,
    },
}

#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// Revokes tokens in the whole mesh: one, or those of a subject, a key or an issuer
    #[command(
        after_help = "A subject's tokens are those issued until now; all others are revoked whenever they were issued.\n\n\
                            Examples:\n  picket token revoke --jti 8f1c2 --issuer https://id.example --for 1h\n  \
                            picket token revoke --sub ana --issuer https://id.example --reason 'laptop lost' --wait\n  \
                            picket token revoke --kid 2026-01 --issuer https://id.example"
    )]
    #[command(group(clap::ArgGroup::new("what").required(true).multiple(true)
        .args(["jti", "sub", "kid", "issuer"])))]
    Revoke {
        /// The token with this `jti`
        #[arg(long, value_name = "ID", conflicts_with_all = ["sub", "kid"])]
        jti: Option<String>,
        /// The tokens with this `sub` that were issued (`iat`) until now, or do not say when
        #[arg(long, value_name = "SUBJECT", conflicts_with = "kid")]
        sub: Option<String>,
        /// The tokens that the key with this `kid` signed
        #[arg(long, value_name = "KEY-ID")]
        kid: Option<String>,
        /// The tokens of this issuer; with one of the others: only those
        #[arg(long, value_name = "ISSUER")]
        issuer: Option<String>,
        /// With --sub: also tokens that are issued later
        #[arg(long, requires = "sub", conflicts_with_all = ["jti", "kid"])]
        also_later: bool,
        /// How long the tokens may still live [default: 30d for --jti and --sub, else until lifted]
        #[arg(long = "for", value_name = "DURATION")]
        length: Option<String>,
        #[command(flatten)]
        common: RevokeArguments,
    },
    /// Lists the revocations of tokens
    Revocations {
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Lifts a revocation
    Unrevoke(UnrevokeArguments),
}

#[derive(Subcommand)]
pub(crate) enum CertificateCommand {
    /// Revokes the certificates of an identity, or one certificate, in the whole mesh
    #[command(
        after_help = "A revoked identity gets no certificate either, by a join token or otherwise, until that is lifted.\n\n\
                            Examples:\n  picket certificate revoke --identity shop/web --reason 'host broken into' --wait\n  \
                            picket certificate revoke --serial 4a5e0f77c1d24bb6a3b1a87c0d9e6f21"
    )]
    #[command(group(clap::ArgGroup::new("what").required(true).args(["identity", "serial"])))]
    Revoke {
        /// Every certificate of a SPIFFE ID, also by NS/SA
        #[arg(long, value_name = "SPIFFE-ID")]
        identity: Option<String>,
        /// One certificate, by its serial number in hexadecimal
        #[arg(long, value_name = "HEX")]
        serial: Option<String>,
        /// How long it stands [default: --serial: until the certificate has ended, else until lifted]
        #[arg(long = "for", value_name = "DURATION")]
        length: Option<String>,
        #[command(flatten)]
        common: RevokeArguments,
    },
    /// Lists the revocations of certificates
    Revocations {
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Lifts a revocation
    Unrevoke(UnrevokeArguments),
}

#[derive(Args)]
pub(crate) struct RevokeArguments {
    /// Why, for the list and the audit trail
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) wait: WaitArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Args)]
pub(crate) struct UnrevokeArguments {
    /// The revocation, as the list names it
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) wait: WaitArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Args)]
pub(crate) struct WaitArguments {
    /// Wait until every proxy that is there enforces it; exit status 1 if one does not
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait
    #[arg(long, default_value = "10s", value_name = "DURATION", requires = "wait")]
    pub(crate) timeout: String,
}

#[derive(Subcommand)]
pub(crate) enum OperatorCommand {
    /// Makes a key and a certificate with a role, for the operator listener
    #[command(
        after_help = "Example:\n  picket operator create --name ana --role viewer --out ./ana\n  \
                            picket --control https://control:8444 --operator ./ana status"
    )]
    Create {
        /// Whose certificate it is
        #[arg(long)]
        name: String,
        /// What it may do; each role includes the ones before it
        #[arg(long, value_enum)]
        role: RoleArgument,
        /// Life of the certificate
        #[arg(long, default_value = "30d", value_name = "DURATION")]
        ttl: String,
        /// Directory to make for certificate, key and trust bundle
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        #[command(flatten)]
        output: OutputArguments,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum RoleArgument {
    Viewer,
    Operator,
    Admin,
}

#[derive(Args)]
pub(crate) struct StatusCommand {
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Args)]
pub(crate) struct CheckCommand {
    /// How to print
    #[arg(short, long, value_enum, env = "PICKET_OUTPUT", default_value = "table")]
    pub(crate) output: CheckFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckFormat {
    Table,
    /// What is not well, a line each
    Short,
    Json,
}

#[derive(Args)]
pub(crate) struct OutputArguments {
    /// How to print
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        env = "PICKET_OUTPUT",
        default_value = "table"
    )]
    pub(crate) format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}
