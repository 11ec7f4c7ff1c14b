//! `picket authz`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{MeshArguments, OutputArguments};

#[derive(Subcommand)]
pub(crate) enum AuthzCommand {
    /// Decides a request as the proxy would, offline, and says why; or a recorded one, then and now
    #[command(
        after_help = "Examples:\n  picket authz explain --policies policies/ --destination shop/payments \
                            --label app=payments \\\n      --from spiffe://shop.example/ns/shop/sa/web \
                            --method POST --path /charge\n  picket authz explain --policies policies/ \
                            --requests requests.jsonl\n  picket authz explain --trace 0af7651916cd43dd8448eb211c80319c\n  \
                            picket authz explain --decision 68c1fdd2e2ba57ab --policies candidate/\n\nPolicies select workloads by labels: pass those of the \
                            destination with --label.\nThe mTLS mode without a PeerAuthentication is a setting of \
                            the mesh (STRICT in proxies); here it counts\nonly with --default-mtls."
    )]
    Explain(Box<ExplainArguments>),
}

/// Options that describe a request, or the mesh that it is decided in; a recorded one needs none of them.
const DESCRIBED: [&str; 23] = [
    "requests",
    "destination",
    "label",
    "from",
    "method",
    "path",
    "host",
    "port",
    "header",
    "source_ip",
    "remote_ip",
    "destination_ip",
    "sni",
    "claims",
    "token",
    "certificate_sha256",
    "jwks",
    "custom",
    "default_action",
    "default_mtls",
    "root_namespace",
    "trust_domain",
    "trust_domain_alias",
];

#[derive(Args)]
pub(crate) struct ExplainArguments {
    /// The policy directory; of a recorded request, if left out: what is in force now
    #[arg(long, value_name = "DIR", required_unless_present_any = ["trace", "decision"])]
    pub(crate) policies: Option<PathBuf>,
    /// The recorded requests of a trace; asks the control plane, whose settings then count
    #[arg(long, value_name = "ID", conflicts_with_all = DESCRIBED)]
    pub(crate) trace: Option<String>,
    /// The recorded request whose refusal bore this x-picket-decision-id
    #[arg(long, value_name = "ID", conflicts_with_all = DESCRIBED, conflicts_with = "trace")]
    pub(crate) decision: Option<String>,
    /// Requests, one JSON object a line; prints one JSON object a line, in order
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "destination", "label", "from", "method", "path", "host", "port", "header", "source_ip",
        "remote_ip", "destination_ip", "sni", "claims", "token", "certificate_sha256",
    ])]
    pub(crate) requests: Option<PathBuf>,
    /// The called workload
    #[arg(long, value_name = "NS/WORKLOAD", required_unless_present_any = ["requests", "trace", "decision"])]
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
    /// The address that the connection was made to
    #[arg(long, value_name = "IP")]
    pub(crate) destination_ip: Option<std::net::IpAddr>,
    /// The server name of the TLS handshake
    #[arg(long, value_name = "NAME")]
    pub(crate) sni: Option<String>,
    /// JSON file with the claims of a token that counts as verified
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(crate) claims: Option<PathBuf>,
    /// A token, verified as the proxy would
    #[arg(long, value_name = "JWT")]
    pub(crate) token: Option<String>,
    /// SHA-256 of the caller's certificate, which a token may be bound to
    #[arg(long, value_name = "HEX")]
    pub(crate) certificate_sha256: Option<String>,
    /// Keys of an issuer whose rule has a jwksUri; may be repeated
    #[arg(long, value_name = "URL=FILE")]
    pub(crate) jwks: Vec<String>,
    /// What external authorizers are assumed to say: none is asked
    #[arg(long, value_enum, default_value = "allow")]
    pub(crate) custom: CustomArgument,
    #[command(flatten)]
    pub(crate) mesh: MeshArguments,
    /// Exit with status 4 if the decision (of any request) is deny
    #[arg(long)]
    pub(crate) exit_code: bool,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum CustomArgument {
    Allow,
    Deny,
    Error,
}
