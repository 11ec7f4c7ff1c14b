//! `picket check`

use std::time::Instant;

use picket_control::operator::{CheckItem, CheckReport, Level};

use crate::args::{CheckCommand, CheckFormat, ControlArguments};
use crate::client::{AskError, Client};
use crate::exit::{Exit, Failure};
use crate::output::{self, Colour, coloured};

pub(crate) async fn run(
    command: &CheckCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let report = look(&Client::new(control)?).await;
    match command.output {
        CheckFormat::Json => output::json(&report)?,
        CheckFormat::Table => print(&report)?,
        CheckFormat::Short => print_short(&report)?,
    }
    Ok(if report.result == Level::Failed { Exit::Problems } else { Exit::Fine })
}

/// What the control plane finds, and whether it can be asked at all.
async fn look(client: &Client) -> CheckReport {
    let started = Instant::now();
    let found = client.get::<CheckReport>("/api/v1/check").await;
    let reachable = |level, detail: String, fix: &str| CheckItem {
        group: "control-plane".to_owned(),
        name: "API reachable".to_owned(),
        level,
        detail,
        fix: fix.to_owned(),
    };
    match found {
        Ok(mut report) => {
            let detail = format!("{client} ({} ms)", started.elapsed().as_millis());
            report.items.insert(0, reachable(Level::Ok, detail, ""));
            report
        }
        Err(error) => {
            let fix = match &error {
                AskError::Unreachable { .. } => {
                    "start it with `picket control run`, or name it with --control; proxies go on \
                     serving, enforcing and recording meanwhile, until their certificates end"
                }
                _ => "ask with an operator certificate that has at least the role viewer",
            };
            let item = reachable(Level::Failed, error.to_string(), fix);
            CheckReport { result: Level::Failed, items: vec![item] }
        }
    }
}

fn glyph(level: Level) -> String {
    match level {
        Level::Ok => coloured("√", Colour::Green),
        Level::Warning => coloured("‼", Colour::Yellow),
        Level::Failed => coloured("×", Colour::Red),
    }
}

fn print(report: &CheckReport) -> Result<(), Failure> {
    let mut group = "";
    for item in &report.items {
        if item.group != group {
            group = &item.group;
            output::line(&coloured(group, Colour::Bold))?;
        }
        output::line(&format!("{} {:<24} {}", glyph(item.level), item.name, item.detail))?;
        if !item.fix.is_empty() {
            output::line(&format!("    fix: {}", item.fix))?;
        }
    }
    output::line(&summary(report))
}

fn print_short(report: &CheckReport) -> Result<(), Failure> {
    for item in report.items.iter().filter(|item| item.level != Level::Ok) {
        let CheckItem { group, name, detail, .. } = item;
        output::line(&format!("{} {group}: {name}: {detail}", glyph(item.level)))?;
    }
    output::line(&summary(report))
}

fn summary(report: &CheckReport) -> String {
    let count = |level| report.items.iter().filter(|item| item.level == level).count();
    format!(
        "Result: {} {} failed, {} {}, {} {} passed",
        glyph(Level::Failed),
        count(Level::Failed),
        glyph(Level::Warning),
        output::counted(count(Level::Warning), "warning"),
        glyph(Level::Ok),
        count(Level::Ok)
    )
}
