//! `picket policy`

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{
    ApplyCommand, LearnCommand, MeshArguments, OutputArguments, ReplayCommand, UnusedCommand,
};

#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Checks policy files; each problem has its file, line, column and fix
    #[command(
        after_help = "Exit status: 0 no error, 1 errors; with --strict warnings count, too.\n\n\
                            Examples:\n  picket policy lint policies/\n  \
                            picket policy lint policies/ --fix --dry-run"
    )]
    Lint(LintCommand),
    /// Runs tests of policies: requests, and what shall come of them
    #[command(
        after_help = "Exit status: 0 all passed, 1 tests failed or cover too little, 2 there is nothing to run.\n\n\
                            Examples:\n  picket policy test policies/\n  \
                            picket policy test tests/payments.yaml --policies candidate/ --min-coverage 90 --junit policy.xml"
    )]
    Test(TestCommand),
    /// Says what changes from one directory of policies to another: objects, fields, and decisions
    #[command(
        after_help = "Requests are made from the values that the policies name, and decided under both. It \
                            samples: no difference found is no proof that there is none.\n\nExit status: 0 the \
                            same, 1 differences.\n\nExample:\n  picket policy diff policies/ candidate/"
    )]
    Diff(DiffCommand),
    /// Decides what was recorded once more, by a candidate: who would break, who would be let in
    #[command(
        after_help = "Needs the role viewer. Exit status: 0 nothing would break, 1 something would.\n\n\
                            Examples:\n  picket policy replay policies/ --since 24h\n  \
                            picket policy replay policies/ --destination shop/orders -o json"
    )]
    Replay(ReplayCommand),
    /// Writes the least that recorded callers need, proven by a replay
    #[command(
        after_help = "Needs the role viewer. Exit status: 0 written, 1 nothing to learn from, or not proven.\n\n\
                            Examples:\n  picket policy learn --since 7d > learnt.yaml\n  \
                            picket policy learn --destination shop/orders --out learnt/"
    )]
    Learn(LearnCommand),
    /// Lists rules that no recorded request matches
    #[command(
        after_help = "Needs the role viewer.\n\nExample:\n  picket policy unused --since 30d"
    )]
    Unused(UnusedCommand),
    /// Puts a directory of policies in force, and waits for what each proxy says
    #[command(
        after_help = "Needs the role admin. Exit status: 0 in force, and with --wait at every proxy; 1 the policies are \
                            refused, or a proxy refused them or said nothing in time.\n\n\
                            Example:\n  picket policy apply policies/ --wait"
    )]
    Apply(ApplyCommand),
    /// Translates what holds for one workload into configuration for another proxy, as JSON
    #[command(
        after_help = "Without --listen it prints the parts: filters to stand before the router of an HTTP connection\n\
                            manager or before a TCP proxy, and the clusters that they need. With --listen and the files it\n\
                            prints a configuration to start Envoy with. What Envoy cannot be told is an error, and nothing\n\
                            is printed.\n\n\
                            The mTLS mode without a PeerAuthentication is a setting of the mesh (STRICT in proxies); here it\n\
                            counts only with --default-mtls.\n\n\
                            Exit status: 0 exported, 1 it cannot be exported.\n\n\
                            Examples:\n  picket policy export --envoy policies/ --destination shop/payments --label app=payments\n  picket policy export --envoy policies/ --destination shop/payments --default-mtls strict \\\n      --listen 0.0.0.0:15006 --forward 127.0.0.1:8080 --certificate svid.pem --key key.pem \\\n      --bundle bundle.pem > envoy.json"
    )]
    Export(Box<ExportCommand>),
}

#[derive(Args)]
pub(crate) struct ExportCommand {
    /// For Envoy: HTTP and network RBAC filters, and its filter for JWTs
    #[arg(long, required = true)]
    pub(crate) envoy: bool,
    /// The policy directory
    pub(crate) dir: PathBuf,
    /// The workload
    #[arg(long, value_name = "NS/WORKLOAD")]
    pub(crate) destination: String,
    /// A label of the workload; may be repeated
    #[arg(long, value_name = "K=V")]
    pub(crate) label: Vec<String>,
    /// The port of the workload, compared with the policies' now; left out: that of --forward, or Envoy compares its own
    #[arg(long, value_name = "N")]
    pub(crate) port: Option<u16>,
    #[command(flatten)]
    pub(crate) mesh: MeshArguments,
    /// Where Envoy shall listen
    #[arg(long, value_name = "ADDRESS", requires_all = ["forward", "certificate", "key", "bundle"])]
    pub(crate) listen: Option<SocketAddr>,
    /// Where the workload listens
    #[arg(long, value_name = "ADDRESS", requires = "listen")]
    pub(crate) forward: Option<SocketAddr>,
    /// The certificate chain that Envoy shall show, PEM
    #[arg(long, value_name = "FILE", requires = "listen")]
    pub(crate) certificate: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "listen")]
    pub(crate) key: Option<PathBuf>,
    /// The authorities of the mesh, PEM
    #[arg(long, value_name = "FILE", requires = "listen")]
    pub(crate) bundle: Option<PathBuf>,
    /// What the port speaks
    #[arg(long, value_enum, default_value = "http", requires = "listen")]
    pub(crate) protocol: ProtocolArgument,
    /// Proxies in front whose x-forwarded-for entries are believed
    #[arg(long, value_name = "N", default_value_t = 0, requires = "listen",
        value_parser = clap::value_parser!(u8).range(..=16))]
    pub(crate) trusted_hops: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProtocolArgument {
    Http,
    Tcp,
}

#[derive(Args)]
pub(crate) struct LintCommand {
    /// The directory; all its *.yaml and *.yml files are read
    pub(crate) dir: PathBuf,
    /// The namespace whose policies apply to the whole mesh
    #[arg(long, default_value = "istio-system", value_name = "NS")]
    pub(crate) root_namespace: String,
    /// A port of workloads that carries raw TCP; may be repeated
    #[arg(long, value_name = "PORT")]
    pub(crate) tcp_port: Vec<u16>,
    /// Mend what can be mended without a doubt, in the files
    #[arg(long)]
    pub(crate) fix: bool,
    /// With --fix: show what it would change, and change nothing
    #[arg(long, requires = "fix")]
    pub(crate) dry_run: bool,
    /// Warnings are problems, too
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Args)]
pub(crate) struct TestCommand {
    /// Files with PolicyTests, or directories whose *.yaml and *.yml files are searched for them
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The policies to test, instead of those that the tests name
    #[arg(long, value_name = "DIR")]
    pub(crate) policies: Option<PathBuf>,
    /// Fail if fewer of the rules decide a test
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) min_coverage: Option<u8>,
    /// Write the results there as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Args)]
pub(crate) struct DiffCommand {
    /// The directory of policies that is in force
    pub(crate) before: PathBuf,
    /// The directory to compare with it
    pub(crate) after: PathBuf,
    #[command(flatten)]
    pub(crate) mesh: MeshArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}
