//! `picket rules`: detection rules without a mesh: checked, tested, listed.

use std::fs;
use std::path::{Path, PathBuf};

use picket_detect::{Diagnostics, Document, Engine, Event, RuleSet, Summary};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::args::{Format, RulesArguments, RulesCommand, RulesTestArguments};
use crate::exit::{Exit, Failure};
use crate::output::{self, Colour, counted};

/// The rules that Picket comes with, as they stand in `control/rules`.
const SHIPPED: [(&str, &str); 7] = picket_control::rules::FILES;

pub(crate) fn run(command: RulesCommand) -> Result<Exit, Failure> {
    match command {
        RulesCommand::Lint(arguments) => lint(&arguments),
        RulesCommand::Test(arguments) => test(&arguments),
        RulesCommand::List(arguments) => list(&arguments),
    }
}

/// The rules of a directory, or those that Picket comes with.
pub(crate) fn read(directory: Option<&Path>) -> Result<Vec<Document>, Failure> {
    let Some(directory) = directory else {
        return Ok(SHIPPED.into_iter().map(|(name, text)| Document::whole(name, text)).collect());
    };
    if !directory.is_dir() {
        return Err(Failure::Usage(format!("{}: there is no such directory", directory.display())));
    }
    let documents = picket_policy_files::read(directory).map_err(|problems| refused(&problems))?;
    if documents.is_empty() {
        let words = format!("{}: there is no *.yaml file of rules", directory.display());
        return Err(Failure::Usage(words));
    }
    Ok(documents)
}

/// The rules as a set.
pub(crate) fn set(directory: Option<&Path>) -> Result<RuleSet, Failure> {
    RuleSet::parse(&read(directory)?).map_err(|problems| refused(&problems))
}

fn refused(problems: &Diagnostics) -> Failure {
    Failure::Problems(format!("the rules are refused:\n{problems}"))
}

fn lint(arguments: &RulesArguments) -> Result<Exit, Failure> {
    let documents = read(arguments.directory.as_deref())?;
    let (rules, filters, problems) = match RuleSet::parse(&documents) {
        Ok(set) => (set.summaries().len(), set.filters(), set.warnings().clone()),
        Err(problems) => (0, 0, problems),
    };
    match arguments.output.format {
        Format::Json => output::json(&json!({
            "files": documents.len(), "rules": rules, "filters": filters, "diagnostics": problems,
        }))?,
        Format::Table => {
            for problem in &problems {
                output::line(&problem.to_string())?;
            }
            let verdict = if problems.has_errors() { "refused" } else { "ok" };
            let counts = [(documents.len(), "file"), (rules, "rule"), (problems.len(), "problem")];
            let counts = counts.map(|(count, thing)| counted(count, thing));
            eprintln!("{verdict}: {}", counts.join(", "));
        }
    }
    Ok(if problems.has_errors() { Exit::Problems } else { Exit::Fine })
}

fn list(arguments: &RulesArguments) -> Result<Exit, Failure> {
    let summaries = set(arguments.directory.as_deref())?.summaries();
    match arguments.output.format {
        Format::Json => output::json(&summaries)?,
        Format::Table => {
            let row = |rule: &Summary| {
                let level = if rule.alerts { rule.level.as_str() } else { "-" };
                let place = format!("{}:{}", rule.file, rule.line);
                vec![level.to_owned(), rule.title.clone(), rule.tags.join(" "), place]
            };
            let rows: Vec<Vec<String>> = summaries.iter().map(row).collect();
            output::table(&["LEVEL", "TITLE", "TAGS", "WHERE"], &rows)?;
            eprintln!("{}; those without a level only serve others", counted(rows.len(), "rule"));
        }
    }
    Ok(Exit::Fine)
}

/// What came of one file of events.
#[derive(Serialize)]
struct Outcome {
    rule: String,
    title: String,
    file: String,
    wanted: &'static str,
    matched: u64,
    passed: bool,
}

fn test(arguments: &RulesTestArguments) -> Result<Exit, Failure> {
    let directory = &arguments.directory;
    let set = set(Some(directory))?;
    let mut outcomes = Vec::new();
    let mut untested = Vec::new();
    for rule in set.summaries().into_iter().filter(|rule| rule.alerts) {
        if rule.matching.is_empty() || rule.other.is_empty() {
            untested.push(rule.title.clone());
        }
        let files = rule.matching.iter().map(|file| (file, true));
        for (file, has_to) in files.chain(rule.other.iter().map(|file| (file, false))) {
            let name = beside(&rule.file, file);
            let path = directory.join(&name);
            let text = fs::read_to_string(&path)
                .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
            let matched = matches(&set, &rule.id, &name.display().to_string(), &text)?;
            outcomes.push(Outcome {
                rule: rule.id.clone(),
                title: rule.title.clone(),
                file: name.display().to_string(),
                wanted: if has_to { "match" } else { "no match" },
                matched,
                passed: (matched > 0) == has_to,
            });
        }
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    match arguments.output.format {
        Format::Json => output::json(&json!({
            "passed": outcomes.len() - failed, "failed": failed, "untested": untested, "tests": outcomes,
        }))?,
        Format::Table => {
            for outcome in outcomes.iter().filter(|outcome| !outcome.passed) {
                let Outcome { title, file, wanted, matched, .. } = outcome;
                let fail = output::coloured("FAIL", Colour::Red);
                output::line(&format!(
                    "{fail} {title}: {file}: wanted {wanted}, matched {matched} times"
                ))?;
            }
            for title in &untested {
                output::line(&format!(
                    "{title}: has no file that has to match, or none that must not"
                ))?;
            }
            let passed = outcomes.len() - failed;
            eprintln!("{passed} passed, {failed} failed, {} without tests", untested.len());
        }
    }
    Ok(if failed == 0 && untested.is_empty() { Exit::Fine } else { Exit::Problems })
}

fn beside(rule: &str, file: &str) -> PathBuf {
    Path::new(rule).parent().unwrap_or(Path::new("")).join(file)
}

/// How often a rule of the set matches the events of a text.
fn matches(set: &RuleSet, rule: &str, file: &str, text: &str) -> Result<u64, Failure> {
    let mut engine = Engine::new(set);
    for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
        observe(&mut engine, text, file, line)?;
    }
    Ok(engine.counts().get(rule).map_or(0, |counts| counts.matched))
}

/// Hands one line to an engine; the alerts that begin with it are of no interest here.
pub(crate) fn observe(
    engine: &mut Engine,
    text: &str,
    file: &str,
    line: usize,
) -> Result<(), Failure> {
    let wrong = |words: String| Failure::Problems(format!("{file}:{line}: {words}"));
    let record: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| wrong(format!("not a JSON object ({error}); write one record a line")))?;
    let event = Event::read(&record).map_err(|error| wrong(error.to_string()))?;
    engine.observe(&event);
    Ok(())
}
