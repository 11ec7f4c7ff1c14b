//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

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

#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Checks policy files; each problem has its file, line, column and fix
    #[command(
        after_help = "Exit status: 0 no error, 1 errors.\n\nExample:\n  picket policy lint policies/"
    )]
    Lint {
        /// The directory; all its *.yaml and *.yml files are read
        dir: PathBuf,
        /// The namespace whose policies apply to the whole mesh
        #[arg(long, default_value = "istio-system", value_name = "NS")]
        root_namespace: String,
        #[command(flatten)]
        output: OutputArguments,
    },
}

#[derive(Subcommand)]
pub(crate) enum AuthzCommand {
    /// Decides a request as the proxy would, offline, and says why
    #[command(
        after_help = "Examples:\n  picket authz explain --policies policies/ --destination shop/payments \
                            --label app=payments \\\n      --from spiffe://shop.example/ns/shop/sa/web \
                            --method POST --path /charge\n  picket authz explain --policies policies/ \
                            --requests requests.jsonl\n\nPolicies select workloads by labels: pass those of the \
                            destination with --label.\nThe mTLS mode without a PeerAuthentication is a setting of \
                            the mesh (STRICT in proxies); here it counts\nonly with --default-mtls."
    )]
    Explain(Box<ExplainArguments>),
}

#[derive(Args)]
pub(crate) struct ExplainArguments {
    /// The policy directory
    #[arg(long, value_name = "DIR")]
    pub(crate) policies: PathBuf,
    /// Requests, one JSON object a line; prints one JSON object a line, in order
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "destination", "label", "from", "method", "path", "host", "port", "header", "source_ip",
        "remote_ip", "sni", "claims", "token",
    ])]
    pub(crate) requests: Option<PathBuf>,
    /// The called workload
    #[arg(long, value_name = "NS/WORKLOAD", required_unless_present = "requests")]
    pub(crate) destination: Option<String>,
    /// A label of the called workload; may be repeated
    #[arg(long, value_name = "K=V")]
    pub(crate) label: Vec<String>,
    /// The caller; left out: no client identity
    #[arg(long, value_name = "SPIFFE-ID")]
    pub(crate) from: Option<String>,
    /// The method; without method and path a raw TCP connection is decided
    #[arg(long, value_name = "M")]
    pub(crate) method: Option<String>,
    /// The path, with its query if it has one
    #[arg(long, value_name = "P")]
    pub(crate) path: Option<String>,
    /// The host that the caller addresses
    #[arg(long, value_name = "H")]
    pub(crate) host: Option<String>,
    /// The port of the called workload
    #[arg(long, value_name = "N")]
    pub(crate) port: Option<u16>,
    /// A header; may be repeated
    #[arg(long, value_name = "'K: V'")]
    pub(crate) header: Vec<String>,
    /// The address at the other end of the socket
    #[arg(long, value_name = "IP")]
    pub(crate) source_ip: Option<std::net::IpAddr>,
    /// The original client's address; left out: the source's
    #[arg(long, value_name = "IP")]
    pub(crate) remote_ip: Option<std::net::IpAddr>,
    /// The server name of the TLS handshake
    #[arg(long, value_name = "NAME")]
    pub(crate) sni: Option<String>,
    /// JSON file with the claims of a token that counts as verified
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(crate) claims: Option<PathBuf>,
    /// A token, verified as the proxy would
    #[arg(long, value_name = "JWT")]
    pub(crate) token: Option<String>,
    /// Keys of an issuer whose rule has a jwksUri; may be repeated
    #[arg(long, value_name = "URL=FILE")]
    pub(crate) jwks: Vec<String>,
    /// What happens to a workload that no ALLOW policy selects
    #[arg(long, value_enum, default_value = "deny")]
    pub(crate) default_action: ActionArgument,
    /// The mTLS mode where no PeerAuthentication says one
    #[arg(long, value_enum, default_value = "permissive")]
    pub(crate) default_mtls: MtlsArgument,
    /// The namespace whose policies apply to the whole mesh
    #[arg(long, default_value = "istio-system", value_name = "NS")]
    pub(crate) root_namespace: String,
    /// The mesh's trust domain, if policies name it by its aliases
    #[arg(long, value_name = "NAME")]
    pub(crate) trust_domain: Option<String>,
    /// Another name of the mesh's trust domain; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) trust_domain_alias: Vec<String>,
    /// Exit with status 4 if the decision (of any request) is deny
    #[arg(long)]
    pub(crate) exit_code: bool,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ActionArgument {
    Allow,
    Deny,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum MtlsArgument {
    Strict,
    Permissive,
    Disable,
}

#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// Finds audit records; every condition that is set has to match
    #[command(after_help = "Examples:\n  picket audit search --decision deny --since 1h\n  \
                            picket audit search --trace 0af7651916cd43dd8448eb211c80319c -o json")]
    Search(Box<SearchArguments>),
}

#[derive(Args)]
pub(crate) struct SearchArguments {
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
    /// How to print
    #[arg(short, long, value_enum, env = "PICKET_OUTPUT", default_value = "table")]
    pub(crate) output: SearchFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SearchFormat {
    Table,
    Json,
    Jsonl,
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
