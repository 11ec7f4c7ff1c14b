//! `picket-audit-bench`: the audit store at size: what taking records in costs, and how long questions take.
//!
//! Records are made before the clock runs, in the form in which proxies send them. Taking in counts the processor
//! time of the whole process, so that the rate is that of one core whatever else the machine does; questions count
//! wall time, each kind with other values each time. Nothing here passes or fails.

#![allow(clippy::indexing_slicing, reason = "the indexes are its own")]

#[path = "cpu.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "shared with the other benches")]
mod cpu;
#[path = "audit/records.rs"]
mod records;

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use picket_control::audit::AuditStore;
use records::Mesh;

#[derive(Parser)]
struct Arguments {
    /// Records to store
    #[arg(long, default_value_t = 200_000)]
    records: u64,
    /// Where to make the database; left out: a temporary directory
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Asks a database that an earlier run left in the directory
    #[arg(long, requires = "directory")]
    existing: bool,
    /// Questions of each kind
    #[arg(long, default_value_t = 40)]
    questions: usize,
}

/// As the binary `picket` has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Records of one message, as a proxy batches them.
const BATCH: u64 = 2_000;
/// Messages that are made ahead.
const AHEAD: u64 = 25;
/// Longer than any question may take.
const PATIENCE: Duration = Duration::from_secs(600);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let temporary = tempfile::tempdir()?;
    let directory = arguments.directory.clone();
    let directory = directory.unwrap_or_else(|| temporary.path().to_owned());
    let path = directory.join("audit.db");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let store = AuditStore::open(&path, "shop.example".parse()?)?;
    let mut mesh = Mesh::new();
    if !arguments.existing {
        runtime.block_on(fill(&store, &mut mesh, arguments.records))?;
    }
    let size = std::fs::metadata(&path)?.len();
    println!(
        "database {:.2} GB, {} bytes a record",
        size as f64 / 1e9,
        size / arguments.records.max(1)
    );
    memory("after taking in")?;
    runtime.block_on(ask(&store, &mesh, &arguments))?;
    memory("after questions")?;
    store.close();
    Ok(())
}

async fn fill(store: &AuditStore, mesh: &mut Mesh, records: u64) -> Result<(), Box<dyn Error>> {
    let (mut spent, mut taken, mut bytes, mut done) =
        (Duration::ZERO, Duration::ZERO, 0_u64, 0_u64);
    let mut shown = Instant::now();
    let mut longest = Duration::ZERO;
    while done < records {
        let messages: Vec<_> = (0..AHEAD).map(|n| mesh.message(done + n * BATCH, BATCH)).collect();
        bytes += messages.iter().map(|(_, message)| message.len() as u64).sum::<u64>();
        let (cpu, clock) = (processor(), Instant::now());
        // Eight at once, as the control plane takes them in.
        let mut waiting = tokio::task::JoinSet::new();
        for (emitter, message) in messages {
            if waiting.len() == 8
                && let Some(added) = waiting.join_next().await
            {
                longest = longest.max(added??);
            }
            let store = store.clone();
            waiting.spawn(async move {
                let started = Instant::now();
                store.add(&emitter, message).await.map(|_| started.elapsed())
            });
        }
        while let Some(added) = waiting.join_next().await {
            longest = longest.max(added??);
        }
        spent += processor() - cpu;
        taken += clock.elapsed();
        done += AHEAD * BATCH;
        if shown.elapsed() > Duration::from_secs(20) {
            shown = Instant::now();
            eprintln!(
                "{done} records, {:.0} a second of processor",
                done as f64 / spent.as_secs_f64()
            );
        }
    }
    println!(
        "took in {done} records of {} bytes: {:.0} a second of processor, {:.0} a second of this machine, \
         the slowest message {longest:.1?}",
        bytes / done,
        done as f64 / spent.as_secs_f64(),
        done as f64 / taken.as_secs_f64()
    );
    Ok(())
}

async fn ask(store: &AuditStore, mesh: &Mesh, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    println!("{:<52} {:>9} {:>9} {:>9}", "question", "p50 ms", "p95 ms", "max ms");
    for (name, question) in records::QUESTIONS {
        let mut times = Vec::new();
        for number in 0..arguments.questions {
            let (filter, by) = question(mesh, number as u64, arguments.records);
            let started = Instant::now();
            if by.is_empty() {
                store.latest(&filter, 100, PATIENCE).await?;
            } else {
                store.groups(&filter, by, PATIENCE).await?;
            }
            times.push(started.elapsed().as_secs_f64() * 1000.0);
        }
        times.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| {
            let index = ((times.len() as f64 * share).ceil() as usize).saturating_sub(1);
            times.get(index).copied().unwrap_or_default()
        };
        println!("{name:<52} {:>9.1} {:>9.1} {:>9.1}", at(0.5), at(0.95), at(1.0));
    }
    Ok(())
}

/// Processor time of this process so far, that of the kernel included.
fn processor() -> Duration {
    cpu::time(std::process::id())
}

fn memory(when: &str) -> Result<(), Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or("0").to_owned()
    };
    println!("memory {when}: {} kB resident, of it {} kB its own", line("VmRSS"), line("RssAnon"));
    Ok(())
}
