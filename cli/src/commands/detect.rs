//! `picket detect`: recorded events through the rules and profiles, in event time.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use picket_detect::{Alert, Budget, Engine, Profiles};

use super::rules;
use crate::args::{AlertFormat, DetectCommand, DetectReplayArguments};
use crate::exit::{Exit, Failure};
use crate::output::{self, counted};

pub(crate) fn run(command: DetectCommand) -> Result<Exit, Failure> {
    let DetectCommand::Replay(arguments) = command;
    replay(&arguments)
}

fn replay(arguments: &DetectReplayArguments) -> Result<Exit, Failure> {
    let set = rules::set(arguments.rules.as_deref())?;
    let mut engine = Engine::new(&set);
    if !arguments.no_profiles {
        let budget = Budget { alarms: arguments.budget, ..Budget::default() };
        engine = engine.with_profiles(Profiles::new(budget));
    }
    let name = arguments.events.display().to_string();
    let unreadable = |error: io::Error| Failure::Usage(format!("{name}: {error}"));
    let input: Box<dyn BufRead> = match name.as_str() {
        "-" => Box::new(io::stdin().lock()),
        _ => Box::new(BufReader::new(File::open(&arguments.events).map_err(unreadable)?)),
    };
    let mut alerts = Vec::new();
    for (number, line) in (1..).zip(input.lines()) {
        let line = line.map_err(unreadable)?;
        if !line.trim().is_empty() {
            rules::observe(&mut engine, &line, &name, number)?;
            alerts.extend(engine.closed());
        }
    }
    let (events, duplicates) = engine.events();
    let size = engine.profiles().map(Profiles::size);
    let lost: u64 = engine.counts().values().map(|counts| counts.late + counts.evicted).sum();
    alerts.extend(engine.end());
    alerts.sort_by(|a, b| (&a.first, &a.rule, &a.group).cmp(&(&b.first, &b.rule, &b.group)));
    print(&alerts, arguments.output)?;
    eprintln!(
        "{} of {}, {duplicates} seen before, {lost} that came too late or had no room",
        counted(alerts.len(), "alert"),
        counted(usize::try_from(events).unwrap_or(usize::MAX), "event"),
    );
    if let Some(size) = size {
        eprintln!(
            "profiles of {} and {}, {} without room",
            counted(size.services, "service"),
            counted(size.edges, "edge"),
            counted(usize::try_from(size.without_room).unwrap_or(usize::MAX), "record"),
        );
    }
    Ok(Exit::Fine)
}

fn print(alerts: &[Alert], format: AlertFormat) -> Result<(), Failure> {
    if format == AlertFormat::Json {
        for alert in alerts {
            let text = serde_json::to_string(alert).map_err(|error| Failure::of(&error))?;
            output::line(&text)?;
        }
        return Ok(());
    }
    let row = |alert: &Alert| {
        let group: Vec<String> =
            alert.group.iter().map(|(name, value)| format!("{name}={value}")).collect();
        vec![
            alert.first.get(..19).unwrap_or(&alert.first).to_owned(),
            alert.severity.as_str().to_owned(),
            alert.title.clone(),
            alert.count.to_string(),
            if group.is_empty() { "-".to_owned() } else { group.join(" ") },
            alert.records.first().cloned().unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = alerts.iter().map(row).collect();
    output::table(&["FIRST", "LEVEL", "TITLE", "COUNT", "GROUP", "RECORD"], &rows)
}
