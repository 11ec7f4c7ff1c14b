//! `picket policy test`: PolicyTests against the policies that they are about, and which rules they reach.
//!
//! What a PolicyTest is stands in [`picket_policy::testing`]. Here files are found, each set of policies is read once, and
//! the results are printed; the report for CI systems is in [`junit`].

mod junit;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use picket_policy::explain::{Answer, Explainer};
use picket_policy::jwt::NoRemoteKeys;
use picket_policy::testing::{Coverage, CoveredRule, Mismatch, PolicyTest};
use picket_policy::{Document, PolicySet, Settings};
use serde::Serialize;
use serde_json::json;

use super::{placed, words};
use crate::args::{Format, TestCommand};
use crate::exit::{Exit, Failure};
use crate::output::{self, Colour, counted};

/// A test that was run.
#[derive(Serialize)]
struct Outcome {
    file: String,
    line: u32,
    suite: String,
    name: String,
    passed: bool,
    mismatches: Vec<Mismatch>,
    answer: Answer,
}

/// The policies that tests are about, and what the tests have reached of them.
struct Subject {
    directory: PathBuf,
    set: PolicySet,
    coverage: Coverage,
}

/// Rules that tests are about, of all sets.
#[derive(Default)]
struct Rules<'s> {
    all: usize,
    /// Those that no test decides by, with the directory of their files.
    uncovered: Vec<(&'s Path, &'s CoveredRule)>,
}

pub(super) fn run(command: &TestCommand) -> Result<Exit, Failure> {
    let tests = read(&command.files)?;
    let mut subjects: Vec<Subject> = Vec::new();
    let mut outcomes = Vec::new();
    for (path, test) in &tests {
        let subject = subject(&mut subjects, path, test, command.policies.as_deref())?;
        outcomes.extend(run_cases(path, test, subject));
    }
    let rules = rules(&subjects);
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    if let Some(path) = &command.junit {
        let written = fs::write(path, junit::report(&outcomes));
        written.map_err(|error| Failure::Usage(format!("--junit {}: {error}", path.display())))?;
    }
    match command.output.format {
        Format::Json => print_json(&outcomes, &rules)?,
        Format::Table => print_words(&outcomes, &rules)?,
    }
    let enough = command.min_coverage.is_none_or(|wanted| {
        let is_enough = rules.percent() >= u32::from(wanted);
        if !is_enough {
            eprintln!(
                "the tests decide by {} % of the rules, --min-coverage asks for {wanted} %",
                rules.percent()
            );
        }
        is_enough
    });
    Ok(if failed == 0 && enough { Exit::Fine } else { Exit::Problems })
}

/// The tests of files, and of all files below directories.
fn read(paths: &[PathBuf]) -> Result<Vec<(PathBuf, PolicyTest)>, Failure> {
    let mut tests = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        let documents = if path.is_dir() {
            let documents = picket_policy_files::read(path)
                .map_err(|problems| Failure::Problems(words(path, &problems)))?;
            let place = |document: Document| (path.join(&*document.file), document);
            documents.into_iter().map(place).collect()
        } else {
            let text = fs::read_to_string(path)
                .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
            vec![(path.clone(), Document::whole(path.display().to_string(), text))]
        };
        for (file, document) in documents {
            match PolicyTest::read(&document) {
                Ok(found) => tests.extend(found.into_iter().map(|test| (file.clone(), test))),
                Err(found) => problems.extend(found.iter().map(|problem| {
                    let directory = if path.is_dir() { path.as_path() } else { Path::new("") };
                    placed(directory, problem).to_string()
                })),
            }
        }
    }
    if !problems.is_empty() {
        return Err(Failure::Problems(problems.join("\n")));
    }
    if tests.is_empty() {
        let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(Failure::Usage(format!("{}: there is no PolicyTest", paths.join(", "))));
    }
    Ok(tests)
}

/// The policies that a test is about, read once for all tests with the same settings.
fn subject<'s>(
    subjects: &'s mut Vec<Subject>,
    file: &Path,
    test: &PolicyTest,
    instead: Option<&Path>,
) -> Result<&'s mut Subject, Failure> {
    let beside = file.parent().unwrap_or(Path::new(""));
    let directory = match (instead, &test.policies) {
        (Some(directory), _) => directory.to_owned(),
        (None, Some(relative)) => beside.join(relative),
        (None, None) if beside.as_os_str().is_empty() => PathBuf::from("."),
        (None, None) => beside.to_owned(),
    };
    let same = |subject: &Subject| {
        is_same(&subject.directory, &directory) && *subject.set.settings() == test.settings
    };
    let index = match subjects.iter().position(same) {
        Some(index) => index,
        None => {
            let set = load(&directory, test.settings.clone())?;
            let coverage = Coverage::new(&set);
            subjects.push(Subject { directory, set, coverage });
            subjects.len() - 1
        }
    };
    subjects.get_mut(index).ok_or_else(|| Failure::Failed("there is no such set".to_owned()))
}

fn is_same(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn load(directory: &Path, settings: Settings) -> Result<PolicySet, Failure> {
    if !directory.is_dir() {
        let words = format!("{}: there is no such directory of policies", directory.display());
        return Err(Failure::Usage(words));
    }
    let refused = |problems: &_| Failure::Problems(words(directory, problems));
    let documents = picket_policy_files::read(directory).map_err(|problems| refused(&problems))?;
    PolicySet::parse(&documents, settings).map_err(|problems| refused(&problems))
}

fn run_cases(path: &Path, test: &PolicyTest, subject: &mut Subject) -> Vec<Outcome> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut explainer = Explainer::new(&subject.set, &NoRemoteKeys, now);
    let outcomes = test.cases.iter().map(|case| {
        let (mut answer, matching) = explainer.answer_with_matches(&case.request);
        subject.coverage.note(&answer, &matching);
        let mismatches = case.expect.compare(&answer);
        answer.place_in(&subject.directory.display().to_string());
        Outcome {
            file: path.display().to_string(),
            line: case.line,
            suite: test.name.clone(),
            name: case.name.clone(),
            passed: mismatches.is_empty(),
            mismatches,
            answer,
        }
    });
    outcomes.collect()
}

fn rules(subjects: &[Subject]) -> Rules<'_> {
    // The same rule under two meshes is one rule: whoever reaches it in one of them has reached it.
    let mut decided: BTreeMap<(&Path, &str, u32), (&Path, &CoveredRule)> = BTreeMap::new();
    for subject in subjects {
        for rule in subject.coverage.rules() {
            let key = (subject.directory.as_path(), rule.place.file.as_str(), rule.place.line);
            let known = decided.entry(key).or_insert((&subject.directory, rule));
            if rule.decided > known.1.decided {
                *known = (&subject.directory, rule);
            }
        }
    }
    let all = decided.len();
    let uncovered = decided.into_values().filter(|(_, rule)| rule.decided == 0).collect();
    Rules { all, uncovered }
}

impl Rules<'_> {
    fn decided(&self) -> usize {
        self.all - self.uncovered.len()
    }

    /// Rounded down, so that 100 means all.
    fn percent(&self) -> u32 {
        match self.all {
            0 => 100,
            all => u32::try_from(self.decided() * 100 / all).unwrap_or_default(),
        }
    }
}

fn print_json(outcomes: &[Outcome], rules: &Rules<'_>) -> Result<(), Failure> {
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    let uncovered = rules.uncovered.iter().map(|(directory, rule)| {
        let mut rule = (*rule).clone();
        rule.place.file = directory.join(&rule.place.file).display().to_string();
        rule
    });
    output::json(&json!({
        "passed": outcomes.len() - failed,
        "failed": failed,
        "tests": outcomes,
        "coverage": {
            "rules": rules.all,
            "decided": rules.decided(),
            "percent": rules.percent(),
            "uncovered": uncovered.collect::<Vec<_>>(),
        },
    }))
}

fn print_words(outcomes: &[Outcome], rules: &Rules<'_>) -> Result<(), Failure> {
    output::line(words_of(outcomes, rules).trim_end())?;
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    eprintln!(
        "{} passed, {failed} failed; {} of {} decide a test ({} %)",
        outcomes.len() - failed,
        rules.decided(),
        counted(rules.all, "rule"),
        rules.percent(),
    );
    Ok(())
}

fn words_of(outcomes: &[Outcome], rules: &Rules<'_>) -> String {
    let mut words = String::new();
    let mut line = |line: &str| {
        words.push_str(line);
        words.push('\n');
    };
    for outcome in outcomes {
        let name = format!("{}: {}", outcome.suite, outcome.name);
        if outcome.passed {
            line(&format!("{}   {name}", output::coloured("ok", Colour::Green)));
            continue;
        }
        line(&format!("{} {name}", output::coloured("FAIL", Colour::Red)));
        line(&indented(&outcome.failure()));
    }
    if !rules.uncovered.is_empty() {
        line("rules that no test decides by:");
    }
    for (directory, rule) in &rules.uncovered {
        let place = &rule.place;
        let file = directory.join(&place.file);
        let beside = match rule.matched {
            0 => String::new(),
            count => {
                format!("  (matches in {}, where others decide)", counted(count as usize, "test"))
            }
        };
        let index = place.rule.unwrap_or_default();
        line(&format!(
            "  {}:{}  {} rule[{index}]{beside}",
            file.display(),
            place.line,
            place.policy
        ));
    }
    words
}

impl Outcome {
    /// Where, what was expected and what came, and why it came so.
    fn failure(&self) -> String {
        let mut words = format!("at {}:{}", self.file, self.line);
        for mismatch in &self.mismatches {
            words.push_str(&format!("\n{mismatch}"));
        }
        words.push('\n');
        words.push_str(&self.answer.to_string());
        words
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("     {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, PolicyCommand};
    use crate::docs;

    #[test]
    fn the_shops_tests_pass_as_the_document_shows_them() {
        let [(arguments, shown)] = &docs::shown("docs/policy.md", "policy test")[..] else {
            panic!("the document shows one run")
        };
        let Command::Policy(PolicyCommand::Test(command)) = &arguments.command else {
            panic!("not test")
        };
        let root = docs::path("");
        let files: Vec<PathBuf> = command.files.iter().map(|file| root.join(file)).collect();
        let mut subjects = Vec::new();
        let mut outcomes = Vec::new();
        for (path, test) in read(&files).unwrap() {
            let subject = subject(&mut subjects, &path, &test, None).unwrap();
            outcomes.extend(run_cases(&path, &test, subject));
        }
        let rules = rules(&subjects);
        let words = words_of(&outcomes, &rules).replace(&root.display().to_string(), "");
        assert_eq!(words, *shown);
        assert!(outcomes.iter().all(|outcome| outcome.passed));
        assert_eq!(rules.percent(), 100);
    }
}
