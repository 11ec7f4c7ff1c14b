//! What a decision costs, and what reading policies costs, by the number of rules.
//!
//! No sockets and no other process: the policy engine alone, on one core. The figure is CPU time per decision over many
//! requests in turn, so that rules are not found in the processor's nearest cache; sizes are measured in interleaved
//! rounds and compared as ratios within a round. `benches/rules.md` says how to read it.
#![allow(clippy::unwrap_used, reason = "a bench that cannot set itself up must stop at once")]

use std::hint::black_box;
use std::time::Duration;

use clap::Parser;
use picket_policy::{PolicySet, ReasonCode, Settings, Workload, WorkloadPolicy};
use rustix::time::{ClockId, clock_gettime};

#[path = "cpu.rs"]
#[allow(dead_code, reason = "shared with the other bench")]
mod cpu;
#[path = "policy/memory.rs"]
mod memory;
#[path = "policy/mesh.rs"]
mod mesh;

use mesh::Request;

/// Measures decisions by the number of rules.
#[derive(Parser)]
struct Arguments {
    /// Numbers of rules; ratios are against the first
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1_000, 10_000])]
    rules: Vec<usize>,
    /// Interleaved rounds
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Requests that are decided in turn, each of another rule as far as there are rules for them
    #[arg(long, default_value_t = 1_000)]
    requests: usize,
    /// Decisions of one kind in a round
    #[arg(long, default_value_t = 200_000)]
    decisions: usize,
}

/// Makes so many requests for a number of rules.
type Requests = fn(usize, usize) -> Vec<Request>;

/// What is decided, and how it should come out.
const KINDS: [(&str, Requests, ReasonCode); 3] = [
    ("allow", mesh::allowed, ReasonCode::AllowMatched),
    ("deny", mesh::denied, ReasonCode::DenyMatched),
    ("default deny", mesh::strangers, ReasonCode::NoAllowMatched),
];

struct Size {
    rules: usize,
    policy: WorkloadPolicy,
    requests: Vec<Vec<Request>>,
}

fn main() {
    let arguments = Arguments::parse();
    cpu::pin(0);
    println!(
        "{:>6} {:>10} {:>10} {:>10} {:>10} {:>12}",
        "rules", "parse", "compile", "drop", "memory", "bytes/rule"
    );
    for rules in &arguments.rules {
        compile(*rules, arguments.rounds);
    }
    let sizes: Vec<Size> = arguments
        .rules
        .iter()
        .map(|rules| Size {
            rules: *rules,
            policy: read(*rules).compile(&workload()),
            requests: KINDS
                .iter()
                .map(|(_, requests, _)| requests(*rules, arguments.requests))
                .collect(),
        })
        .collect();
    println!("\n{:<22} {:>6} {:>10} {:>8}", "decision", "rules", "ns", "ratio");
    for (kind, (name, _, code)) in KINDS.iter().enumerate() {
        table(name, &sizes, &arguments, |size, times| {
            decide(size, kind, *code, times, |_, _, _| {})
        });
    }
    table("default deny, reasons", &sizes, &arguments, |size, times| {
        decide(size, 2, ReasonCode::NoAllowMatched, times, |policy, decision, attributes| {
            black_box(policy.explain_decision(decision, Some(attributes)));
        })
    });
}

fn workload() -> Workload {
    Workload { namespace: "shop".into(), name: "web".into(), ..Workload::default() }
}

fn read(rules: usize) -> PolicySet {
    PolicySet::parse(&mesh::documents(rules), Settings::default())
        .unwrap_or_else(|problems| panic!("{problems}"))
}

/// Prints how long it takes until rules are in force, and what they take.
fn compile(rules: usize, rounds: usize) {
    let documents = mesh::documents(rules);
    let mut times = [const { Vec::new() }; 3];
    let mut bytes = 0;
    for _ in 0..rounds {
        let before = memory::live();
        let start = thread_time();
        let set = PolicySet::parse(&documents, Settings::default()).unwrap();
        let parsed = thread_time() - start;
        let start = thread_time();
        let policy = set.compile(&workload());
        let compiled = thread_time() - start;
        // As a proxy does: what is in force is the workload's policy alone.
        drop(set);
        bytes = memory::live() - before;
        let start = thread_time();
        drop(policy);
        for (times, time) in times.iter_mut().zip([parsed, compiled, thread_time() - start]) {
            times.push(time.as_secs_f64() * 1e3);
        }
    }
    let [parse, compile, drop] = times.map(|times| median(&times));
    println!(
        "{rules:>6} {parse:>7.2} ms {compile:>7.2} ms {drop:>7.2} ms {:>6.2} MiB {:>12}",
        bytes as f64 / f64::from(1 << 20),
        bytes / rules
    );
}

/// Measures every size in each round, and prints the medians.
fn table(
    name: &str,
    sizes: &[Size],
    arguments: &Arguments,
    measure: impl Fn(&Size, usize) -> Duration,
) {
    let mut figures: Vec<Vec<f64>> = vec![Vec::new(); sizes.len()];
    for _ in 0..arguments.rounds {
        for (size, figures) in sizes.iter().zip(&mut figures) {
            measure(size, arguments.decisions / 10);
            let took = measure(size, arguments.decisions);
            figures.push(took.as_secs_f64() * 1e9 / arguments.decisions as f64);
        }
    }
    let reference = figures.first().cloned().unwrap_or_default();
    for (size, figures) in sizes.iter().zip(&figures) {
        let ratios: Vec<f64> =
            figures.iter().zip(&reference).map(|(own, first)| own / first).collect();
        println!("{name:<22} {:>6} {:>10.0} {:>8.2}", size.rules, median(figures), median(&ratios));
    }
}

/// Decides each request of a kind in turn.
fn decide(
    size: &Size,
    kind: usize,
    code: ReasonCode,
    times: usize,
    then: impl Fn(&WorkloadPolicy, &picket_policy::Decision, &picket_policy::Attributes<'_>),
) -> Duration {
    let attributes: Vec<_> =
        size.requests.get(kind).unwrap().iter().map(Request::attributes).collect();
    let start = thread_time();
    for attributes in attributes.iter().cycle().take(times) {
        let decision = size.policy.decide(black_box(attributes));
        assert_eq!(decision.code, code);
        then(&size.policy, &decision, attributes);
    }
    thread_time() - start
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Time that this thread has been on a core; what it waited for one does not count.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}
