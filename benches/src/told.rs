//! How soon somebody is told: from the end of a request to a receiver's clock, at rest and under load.
//!
//! Real processes: a control plane with the shipped rules, two sidecars, and if there is one an Alertmanager. Each request
//! that is refused has a path of its own, and each such path is an alert of its own. The receiver of webhooks is in this
//! process, on a thread of its own with the caller that provokes alerts, so that both have one clock and neither waits
//! for the load. The load is calls through both sidecars, at a pace that does not wait for answers; each is recorded at
//! both ends. Nothing is pinned: everything shares the machine, and is slowed by it.

mod calls;
mod mesh;
mod receiver;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cpu;
use mesh::Mesh;
use receiver::{Receiver, Way};

/// How often the detector is asked how far it is behind.
const LOOK: Duration = Duration::from_millis(250);
/// How long the last alerts are waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the load has before anything is measured.
const SETTLE: Duration = Duration::from_secs(3);
/// Alerts before anything is measured.
const WARM_UP: usize = 5;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The `picket` binary (release)
    #[arg(long, default_value = "target/release/picket")]
    picket: PathBuf,
    /// The `prometheus-alertmanager` binary; left out: only the webhook is measured
    #[arg(long)]
    alertmanager: Option<PathBuf>,
    /// Records a second of the load; half as many calls
    #[arg(long, default_value_t = 5_000)]
    load: u32,
    /// Alerts of each phase
    #[arg(long, default_value_t = 200)]
    alerts: usize,
    /// Milliseconds between two alerts, a half more or less by chance
    #[arg(long, default_value_t = 200)]
    every: u64,
}

/// Measures at rest, then under load, and prints.
pub(crate) fn measure(arguments: &Arguments) {
    let receiver = Receiver::start();
    let service = calls::service();
    let mesh = Mesh::start(arguments, service, receiver.address);
    let told = Told { arguments, mesh: &mesh, receiver: &receiver };
    let warm_up = told.provoke("warm-up", WARM_UP);
    told.await_all(&warm_up, Way::Webhook);
    println!(
        "{:<10} {:>10} {:<13} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "phase", "records/s", "by", "told", "p50 ms", "p90 ms", "p99 ms", "max ms"
    );
    told.phase("rest");
    let load = calls::Load::start(mesh.outbound, arguments.load / 2);
    std::thread::sleep(SETTLE);
    told.phase("load");
    let late = load.stop();
    println!("load: the latest call was {late:.0?} behind its time");
}

struct Told<'a> {
    arguments: &'a Arguments,
    mesh: &'a Mesh,
    receiver: &'a Receiver,
}

impl Told<'_> {
    fn phase(&self, name: &str) {
        let (cpu, records, started) = (self.cpu(), self.mesh.stored(), Instant::now());
        let (is_over, most_behind) = (AtomicBool::new(false), AtomicU64::new(0));
        let (ended, used, took, records) = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    most_behind.fetch_max(self.mesh.behind(), Ordering::Relaxed);
                    std::thread::sleep(LOOK);
                }
            });
            let ended = self.provoke(name, self.arguments.alerts);
            let (used, took) = (self.cpu() - cpu, started.elapsed());
            is_over.store(true, Ordering::Relaxed);
            (ended, used, took, self.mesh.stored() - records)
        });
        let rate = records as f64 / took.as_secs_f64();
        let ways: &[Way] = match self.arguments.alertmanager {
            Some(_) => &[Way::Webhook, Way::Alertmanager],
            None => &[Way::Webhook],
        };
        for way in ways {
            let late = self.await_all(&ended, *way);
            let at = |share: f64| {
                let index = ((late.len() as f64 * share).ceil() as usize).saturating_sub(1);
                late.get(index).map_or(f64::NAN, |late| late.as_secs_f64() * 1e3)
            };
            println!(
                "{name:<10} {rate:>10.0} {:<13} {:>4}/{:<4} {:>9.0} {:>9.0} {:>9.0} {:>9.0}",
                way.name(),
                late.len(),
                ended.len(),
                at(0.5),
                at(0.9),
                at(0.99),
                at(1.0)
            );
        }
        println!(
            "{name:<10} control plane: {:.1} % of a core, {:.1} us a record; its detector at most {} records behind",
            used.as_secs_f64() / took.as_secs_f64() * 100.0,
            used.as_secs_f64() * 1e6 / records.max(1) as f64,
            most_behind.load(Ordering::Relaxed)
        );
    }

    /// Has so many requests refused; returns by their paths when each had ended.
    fn provoke(&self, name: &str, count: usize) -> HashMap<String, Instant> {
        let paths: Vec<String> = (0..count).map(|n| format!("/orders/{name}-{n}")).collect();
        let every = Duration::from_millis(self.arguments.every);
        self.receiver.run(calls::refused(self.mesh.outbound, paths, every))
    }

    /// How late each of them was told, sorted; those that were not are missing.
    fn await_all(&self, ended: &HashMap<String, Instant>, way: Way) -> Vec<Duration> {
        let started = Instant::now();
        loop {
            let told = self.receiver.told(way);
            let late = |(path, ended): (&String, &Instant)| {
                told.get(path).map(|told| told.saturating_duration_since(*ended))
            };
            let mut late: Vec<Duration> = ended.iter().filter_map(late).collect();
            if late.len() == ended.len() || started.elapsed() > PATIENCE {
                late.sort_unstable();
                return late;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn cpu(&self) -> Duration {
        cpu::time(self.mesh.control.id())
    }
}
