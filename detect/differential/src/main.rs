//! Decides rules over events twice, by `picket-detect` and by an evaluator that others wrote, and shows where they differ.
//!
//! The shipped rules and generated ones, over events that are generated for them. What is explained in
//! `docs/detection.md` is counted by its name; everything else is shown in its smallest form and ends with status 1.

#![forbid(unsafe_code)]

mod comparisons;
mod decide;
mod events;
mod known;
mod rules;
mod shipped;
mod shrink;
mod words;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::events::Events;
use crate::rules::{Case, Rules};
use crate::shrink::Difference;

const USAGE: &str =
    "usage: picket-detect-differential [--rules N] [--events N] [--seed N] [--show N]

  --rules   how many generated cases (1000)
  --events  events for each batch of 25 cases, and for the shipped rules (300)
  --seed    where the generator begins (1)
  --show    unexplained differences that are shown (20)";

/// Cases that are decided together, by one engine.
const BATCH: usize = 25;

struct Tally {
    decisions: u64,
    matches: u64,
    explained: BTreeMap<&'static str, u64>,
    unexplained: u64,
    show: u64,
}

fn main() -> Result<()> {
    let mut arguments = pico_args::Arguments::from_env();
    if arguments.contains(["-h", "--help"]) {
        println!("{USAGE}");
        return Ok(());
    }
    let cases: usize = arguments.opt_value_from_str("--rules")?.unwrap_or(1_000);
    let count: usize = arguments.opt_value_from_str("--events")?.unwrap_or(300);
    let seed: u64 = arguments.opt_value_from_str("--seed")?.unwrap_or(1);
    let show: u64 = arguments.opt_value_from_str("--show")?.unwrap_or(20);
    let rest = arguments.finish();
    if let Some(unknown) = rest.first() {
        bail!("there is no option {}\n{USAGE}", unknown.display());
    }
    if count == 0 || count > 2_000 {
        bail!("--events is {count}; from 1 to 2000 are possible");
    }
    let began = Instant::now();
    let mut tally =
        Tally { decisions: 0, matches: 0, explained: BTreeMap::new(), unexplained: 0, show };

    let shipped = shipped::rules()?;
    let number = shipped.docs.len();
    let mut events = Events::new(seed, false);
    let stream: Vec<Value> = (0..count).map(|_| events.event(&shipped.docs)).collect();
    let families = families(&shipped.docs);
    compare(
        &families,
        |case| decide::ids(case).into_iter().take(1).collect(),
        (&shipped.text, &shipped.docs),
        &stream,
        &mut tally,
    )?;
    println!("shipped: {number} rules, {} decisions, {} matches", tally.decisions, tally.matches);

    let mut rules = Rules::new(seed);
    let mut made = 0;
    let mut decided = 0;
    while made < cases {
        let mut batch: Vec<Case> = Vec::new();
        while batch.len() < BATCH && made < cases {
            let case = rules.case();
            made += 1;
            let is_alone = rules::is_alone(&case);
            if is_alone {
                decided += generated(&[case], seed + made as u64, count, &mut tally)?;
            } else {
                batch.push(case);
            }
        }
        decided += generated(&batch, seed + made as u64, count, &mut tally)?;
    }
    println!(
        "all: {made} generated cases with {decided} rules, seed {seed}, {} decisions, {} matches, {:.1} s",
        tally.decisions,
        tally.matches,
        began.elapsed().as_secs_f64()
    );
    for (name, times) in &tally.explained {
        println!("  explained: {times:>6} {name}");
    }
    if tally.unexplained > 0 {
        bail!("{} differences are not explained", tally.unexplained);
    }
    Ok(())
}

/// Compares a batch of generated cases; how many rules were decided.
fn generated(batch: &[Case], seed: u64, count: usize, tally: &mut Tally) -> Result<usize> {
    // A case that one of the two refuses is a difference of its own.
    let mut loaded = Vec::new();
    for case in batch {
        let text = decide::text(case);
        let (ours, theirs) = (decide::ours(&text, case, &[]), decide::theirs(case, &[]));
        match (ours.err(), theirs.err()) {
            (None, None) => loaded.push(case.clone()),
            (ours, theirs) => tally.refused(&text, ours, theirs),
        }
    }
    let docs: Vec<Value> = loaded.concat();
    let mut events = Events::new(seed, false);
    let stream: Vec<Value> = (0..count).map(|_| events.event(&docs)).collect();
    compare(&loaded, |case| decide::ids(case), (&decide::text(&docs), &docs), &stream, tally)?;
    Ok(decide::ids(&docs).len())
}

/// Each rule with those that it is made of.
fn families(docs: &[Value]) -> Vec<Case> {
    let named = |wanted: &Value| {
        docs.iter().find(|doc| doc.get("id") == Some(wanted) || doc.get("name") == Some(wanted))
    };
    let family = |doc: &Value| {
        let mut case = vec![doc.clone()];
        let mut next = 0;
        while let Some(doc) = case.get(next).cloned() {
            let rules = doc.pointer("/correlation/rules").and_then(Value::as_array);
            case.extend(rules.into_iter().flatten().filter_map(named).cloned());
            next += 1;
        }
        case
    };
    docs.iter().filter(|doc| doc.get("filter").is_none()).map(family).collect()
}

/// Compares cases that are read together.
fn compare(
    cases: &[Case],
    decided: impl Fn(&Case) -> Vec<String>,
    (text, docs): (&str, &[Value]),
    events: &[Value],
    tally: &mut Tally,
) -> Result<()> {
    let ours = decide::ours(text, docs, events)?;
    let theirs = decide::theirs(docs, events)?;
    let matches = &ours;
    for case in cases {
        for id in decided(case) {
            let (Some(ours), Some(theirs)) = (ours.get(&id), theirs.get(&id)) else {
                bail!("nothing was decided for {id}");
            };
            tally.decisions += ours.len() as u64;
            tally.matches += ours.iter().filter(|matched| **matched).count() as u64;
            for (number, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                if ours != theirs {
                    let matched =
                        |id: &str| matches.get(id).is_some_and(|m| m.get(number) == Some(&true));
                    let event = events.get(number).unwrap_or(&Value::Null);
                    if let Some(name) = known::explain_correlation(case, &id, event, matched) {
                        *tally.explained.entry(name).or_insert(0) += 1;
                        continue;
                    }
                    let until = events.iter().take(number + 1).cloned().collect();
                    let (ours, theirs) = (*ours, *theirs);
                    tally.differs(Difference {
                        docs: case.clone(),
                        events: until,
                        id: id.clone(),
                        ours,
                        theirs,
                    });
                }
            }
        }
    }
    Ok(())
}

impl Tally {
    fn refused(&mut self, text: &str, ours: Option<anyhow::Error>, theirs: Option<anyhow::Error>) {
        self.unexplained += 1;
        if self.unexplained <= self.show {
            println!("refused:\n{text}");
            for (who, error) in [("ours", ours), ("theirs", theirs)] {
                println!("  {who}: {}", error.map_or("taken".to_owned(), |e| format!("{e:#}")));
            }
        }
    }

    fn differs(&mut self, difference: Difference) {
        let mut single = difference.clone();
        // Most differences are about one event.
        single.events.drain(..single.events.len().saturating_sub(1));
        let small = if single.is_one() { single.shrunk() } else { difference.shrunk() };
        if let Some(name) = known::explain(&small) {
            *self.explained.entry(name).or_insert(0) += 1;
            return;
        }
        self.unexplained += 1;
        if self.unexplained <= self.show {
            println!("differs, ours {} and theirs {}:", small.ours, small.theirs);
            print!("{}", decide::text(&small.docs));
            for event in &small.events {
                println!("  {event}");
            }
        }
    }
}
