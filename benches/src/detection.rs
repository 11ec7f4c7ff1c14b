//! What watching costs: rules and profiles over a stream as wide as it gets, and a flood that tries to fill the memory.
//!
//! Records are made in batches before the clock runs; what is measured is the CPU time of the thread that has the engine,
//! and the memory of the process. How records come to the engine (from OTLP to the flat form) is part of `told` and of
//! `detect replay`.

use std::fs;
use std::time::Duration;

use clap::Args;
use picket_detect::{Budget, Document, Engine, Event, Profiles, RuleSet};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value, json};

/// Monday, 2 November 2026.
const BEGIN: i64 = 1_793_577_600;
const BATCH: usize = 1_000;
/// Events of a second.
const RATE: i64 = 20_000;

#[derive(Args)]
pub(crate) struct Detection {
    /// Events
    #[arg(long, default_value_t = 2_000_000)]
    events: usize,
    /// Rules: those that Picket comes with, and generated ones
    #[arg(long, default_value_t = 200)]
    rules: usize,
    /// Pairs of caller and service
    #[arg(long, default_value_t = 10_000)]
    edges: usize,
    /// Then so many requests, each of another identity and to another path
    #[arg(long, default_value_t = 1_000_000)]
    flood: usize,
}

pub(crate) fn run(arguments: &Detection) {
    let set = rules(arguments.rules);
    let count = set.summaries().len();
    for (what, with_profiles) in [("rules alone", false), ("rules and profiles", true)] {
        let mut engine = Engine::new(&set);
        if with_profiles {
            engine = engine.with_profiles(Profiles::new(Budget::default()));
        }
        let before = resident();
        let mut rng = fastrand::Rng::with_seed(1);
        let spent = feed(&mut engine, 0..arguments.events, |number| {
            let edge = rng.usize(..arguments.edges);
            let route = format!("/items/{{id}}/{}", rng.u8(..8));
            // Each service has ten callers, and each caller calls ten.
            let (service, services) = (edge / 10, (arguments.edges / 10).max(1));
            let caller = (service + 1 + edge % 10) % services;
            record(number, at(number), service, caller, &route, &mut rng)
        });
        let each = spent.as_secs_f64() * 1e6 / arguments.events as f64;
        println!(
            "{what}: {count} rules, {} edges, {} events: {each:.2} us each, {:.0} % of a core at {RATE}/s, {:.0} MiB more",
            arguments.edges,
            arguments.events,
            each * RATE as f64 / 1e4,
            resident() - before,
        );
        if with_profiles {
            let learnt = engine.profiles().map(Profiles::size).unwrap_or_default();
            println!("  profiles: {} services, {} edges", learnt.services, learnt.edges);
            steps(&mut engine, arguments.events);
        }
        flood(&mut engine, arguments);
    }
}

/// What the end of a step of five minutes costs.
fn steps(engine: &mut Engine, events: usize) {
    const STEPS: usize = 24;
    let mut rng = fastrand::Rng::with_seed(2);
    let spent = feed(engine, 0..STEPS, |step| {
        let seconds = (at(events) / 300 + 1 + step as i64) * 300;
        record(events + step, seconds, 0, 0, "/items/{id}/0", &mut rng)
    });
    let saved = engine.profiles().map(Profiles::save).unwrap_or_default().len();
    let each = spent.as_secs_f64() * 1e3 / STEPS as f64;
    println!("  a step of five minutes ends in {each:.1} ms; saved they are {:.1} MiB", mib(saved));
}

fn flood(engine: &mut Engine, arguments: &Detection) {
    let (before, first) = (resident(), arguments.events + 1_000);
    let mut rng = fastrand::Rng::with_seed(3);
    let spent = feed(engine, first..first + arguments.flood, |number| {
        let path = format!("/flood/x{number}y");
        let mut record = record(number, at(number) + 7_200 * 2, number % 100, 0, &path, &mut rng);
        let source = format!("spiffe://shop.example/ns/flood/sa/f{number}");
        record.insert("picket.source".to_owned(), source.into());
        record.insert("url.path".to_owned(), path.into());
        record
    });
    let each = spent.as_secs_f64() * 1e6 / arguments.flood.max(1) as f64;
    println!(
        "  flood of {} identities and paths: {each:.2} us each, {:.0} MiB more",
        arguments.flood,
        resident() - before
    );
    let counts = engine.counts();
    let evicted: u64 = counts.values().map(|counts| counts.evicted).sum();
    println!("  groups of rules that gave way to others: {evicted}");
    if let Some(profiles) = engine.profiles() {
        let size = profiles.size();
        println!(
            "  profiles: {} services, {} edges, {} callers; {} records found no room",
            size.services, size.edges, size.callers, size.without_room
        );
    }
}

/// Feeds events; the time of the thread that the engine took.
fn feed(
    engine: &mut Engine,
    numbers: std::ops::Range<usize>,
    mut make: impl FnMut(usize) -> Map<String, Value>,
) -> Duration {
    let mut spent = Duration::ZERO;
    let mut numbers = numbers.peekable();
    while numbers.peek().is_some() {
        let batch: Vec<_> = numbers.by_ref().take(BATCH).map(&mut make).collect();
        let begun = clock();
        for record in &batch {
            let _alerts = engine.observe(&Event::read(record).unwrap());
        }
        let _over = engine.closed();
        spent += clock() - begun;
    }
    spent
}

fn at(number: usize) -> i64 {
    BEGIN + number as i64 / RATE
}

fn record(
    number: usize,
    seconds: i64,
    service: usize,
    caller: usize,
    route: &str,
    rng: &mut fastrand::Rng,
) -> Map<String, Value> {
    // Without a crate for dates: all is within two months.
    let (day, second) = ((seconds - BEGIN) / 86_400, (seconds - BEGIN) % 86_400);
    let (month, day) = if day < 29 { (11, day + 2) } else { (12, day - 28) };
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let status = if rng.u8(..) < 2 { 503 } else { 200 };
    let value = json!({
        "id": format!("b-0-{number}"),
        "time": format!("2026-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", number % 1_000_000_000),
        "picket.kind": "request", "picket.direction": "inbound", "picket.decision": "allow",
        "picket.decision.reason": "allow_matched", "picket.policy": "shop/items",
        "picket.source": format!("spiffe://shop.example/ns/shop/sa/caller-{caller}"),
        "picket.destination": format!("spiffe://shop.example/ns/shop/sa/service-{service}"),
        "service.name": format!("service-{service}"), "service.version": "1",
        "network.peer.address": format!("10.{}.{}.7", caller / 250, caller % 250), "tls.protocol.version": "1.3",
        "http.request.method": if rng.bool() { "GET" } else { "POST" }, "http.route": route,
        "url.path": route.replace("{id}", "17"), "http.response.status_code": status,
        "http.request.body.size": rng.u32(..2_000), "http.response.body.size": rng.u32(..20_000),
        "picket.time.upstream_us": rng.u32(300..30_000), "picket.time.policy_us": 9, "picket.ending": "completed",
    });
    let Value::Object(record) = value else { unreachable!("it is one") };
    record
}

/// The shipped rules, and others until there are so many.
fn rules(count: usize) -> RuleSet {
    let shipped = picket_control::rules::FILES.iter();
    let mut documents: Vec<Document> =
        shipped.map(|(name, text)| Document::whole(*name, *text)).collect();
    let there = RuleSet::parse(&documents).unwrap().summaries().len();
    let tests = [
        "url.path|contains: /admin",
        "url.path|re: '^/v[0-9]+/internal/'",
        "picket.source|endswith: /sa/batch",
        "http.response.status_code|gte: 500",
        "http.response.body.size|gt: 50000000",
        "network.peer.address|cidr: 192.168.0.0/16",
        "http.request.method: [TRACE, CONNECT, PATCH]",
        "picket.jwt.presenter: mobile",
    ];
    for (number, test) in (there..count).zip(tests.iter().cycle()) {
        let text = format!(
            "title: Generated {number}\nid: 00000000-0000-4000-8000-{number:012}\nlevel: low\n\
             logsource: {{product: picket, category: request}}\ndetection:\n  a: {{{test}}}\n  \
             b: {{picket.destination|endswith: /service-{number}}}\n  condition: a and b\nfalsepositives: [A bench]\n"
        );
        documents.push(Document::whole(format!("generated-{number}.yaml"), text.as_str()));
    }
    RuleSet::parse(&documents).unwrap()
}

/// CPU time of this thread.
fn clock() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// Memory of this process, in MiB.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap() / 1_024.0
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}
