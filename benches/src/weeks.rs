//! Two weeks of fifty services that never were, with attacks or without, and how well they are found.
//!
//! `benches/anomalies.md` says how traffic is made and alerts are scored.

mod attacks;
mod changes;
mod clock;
mod draw;
mod mesh;
mod record;
mod request;
mod routes;
mod score;
#[cfg(test)]
mod tests;
mod traffic;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use attacks::{Attack, Plan};
use changes::Changes;
use clock::{At, DAY};
use mesh::Mesh;
use record::Writer;
use score::Scored;
use traffic::Traffic;

#[derive(Subcommand)]
pub(crate) enum Weeks {
    /// Writes events.jsonl and labels.json
    Make(Make),
    /// Holds what `picket detect replay -o json` found against the labels
    Score(Score),
}

#[derive(Args, Clone)]
pub(crate) struct Make {
    /// The same seed gives the same traffic
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Days from Monday, 2 November 2026; attacks are in the second half
    #[arg(long, default_value_t = 14)]
    days: i64,
    /// Requests of a day, more or less
    #[arg(long, default_value_t = 200_000.0)]
    per_day: f64,
    /// With attacks, which labels.json names
    #[arg(long)]
    attacks: bool,
    /// The directory to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Args)]
pub(crate) struct Score {
    /// labels.json; of several runs each of them
    #[arg(long, required = true)]
    labels: Vec<PathBuf>,
    /// The alerts, a JSON object a line; as many files, in the same order
    #[arg(long, required = true)]
    alerts: Vec<PathBuf>,
    /// Names the attacks that nobody found, too
    #[arg(long)]
    missed: bool,
}

pub(crate) fn run(command: Weeks) {
    match command {
        Weeks::Make(arguments) => make(&arguments),
        Weeks::Score(arguments) => {
            let read = |path: &PathBuf| fs::read_to_string(path).unwrap();
            let mut sum = Scored::default();
            assert_eq!(arguments.labels.len(), arguments.alerts.len(), "as many of both");
            for (labels, alerts) in arguments.labels.iter().zip(&arguments.alerts) {
                let labels = serde_json::from_str(&read(labels)).unwrap();
                sum.add(&labels, &read(alerts));
            }
            print!("{sum}");
            if arguments.missed {
                println!("\nMissed: {}", sum.missed.join(", "));
            }
        }
    }
}

fn make(arguments: &Make) {
    fs::create_dir_all(&arguments.out).unwrap();
    let file = File::create(arguments.out.join("events.jsonl")).unwrap();
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let made = generate(arguments, &mut out).unwrap();
    out.flush().unwrap();
    println!("{} records, {} attacks", made.records, made.attacks.len());
    let mut labels = BufWriter::new(File::create(arguments.out.join("labels.json")).unwrap());
    serde_json::to_writer(&mut labels, &labelled(&made, arguments)).unwrap();
    labels.flush().unwrap();
}

/// What was written.
struct Made {
    records: u64,
    mesh: Mesh,
    attacks: Vec<Attack>,
    /// Of each attack, the ids of its records with their times.
    ids: Vec<Vec<(At, String)>>,
}

fn generate(arguments: &Make, out: &mut impl Write) -> io::Result<Made> {
    let &Make { seed, days, per_day, .. } = arguments;
    let mesh = Mesh::new(seed, per_day);
    let changes = Changes::new(&mesh, seed, days);
    let attacks = match arguments.attacks {
        true => Plan::attacks(&mesh, changes.pairs(), seed, days),
        false => Vec::new(),
    };
    let mut ids = vec![Vec::new(); attacks.len()];
    let mut writer = Writer::new(&mesh, seed, out);
    let mut traffic = Traffic::new(mesh, changes, &attacks, seed);
    for minute in 0..days * DAY {
        let requests =
            traffic.minute(minute, |service, version| writer.deploy(minute, service, &version));
        for request in &requests {
            let id = writer.write(traffic.mesh(), request)?;
            if let Some(ids) = request.attack.and_then(|attack| ids.get_mut(attack)) {
                ids.push((request.at, id));
            }
        }
    }
    let (records, mesh) = (writer.written, traffic.into_mesh());
    Ok(Made { records, mesh, attacks, ids })
}

/// The attacks as `labels.json` has them. One that came to nothing is left out.
fn labelled(made: &Made, arguments: &Make) -> serde_json::Value {
    let mut labels = Vec::new();
    for (number, (attack, ids)) in made.attacks.iter().zip(&made.ids).enumerate() {
        let is_silence = attack.kind == "quiet_death";
        if ids.is_empty() && !is_silence {
            continue;
        }
        // An effect is there from its first record on.
        let first = ids.first().map_or(attack.from, |(at, _)| *at);
        let last = ids.last().map_or(attack.to, |(at, _)| *at);
        let id = |place: usize| made.mesh.service(place).id.clone();
        let edges: Vec<[String; 2]> = attack
            .edges
            .iter()
            .map(|(source, destination)| [id(*source), id(*destination)])
            .collect();
        let records: Vec<&String> = ids.iter().map(|(_, id)| id).collect();
        let times: Vec<String> = ids.iter().map(|(at, _)| at.to_string()).collect();
        labels.push(json!({
            "id": format!("{}-{}", attack.kind, number),
            "kind": attack.kind,
            "grade": attack.grade.as_str(),
            "first": first.to_string(),
            "last": last.to_string(),
            "edges": edges,
            "features": attack.features,
            "by_effects": !attack.effects.is_empty(),
            "records": records,
            "times": times,
        }));
    }
    json!({
        "seed": arguments.seed,
        "days": arguments.days,
        "services": made.mesh.services.len(),
        "attacks": labels,
    })
}
