//! What a replay found, gathered by who calls what, and how it is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use picket_control::operator::AuditQuery;
use picket_policy::{Decision, Generation, NearestMiss, Verdict};
use serde::Serialize;
use serde_json::json;

use crate::exit::Failure;
use crate::output::{self, Colour, coloured, counted};
use crate::recorded::{Entry, Mesh, seconds, shape, short};

/// Groups that are told apart; what comes after is counted together.
const MAX_GROUPS: usize = 10_000;
/// Trace ids of a group that are named.
const MAX_TRACES: usize = 3;

/// What a candidate set would do to a recorded request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::commands::policy) enum Change {
    /// It was allowed and would be denied.
    Breaks,
    /// It was denied and would be allowed.
    Allows,
    /// It depends on what is not recorded.
    Undecidable,
}

/// Requests that are the same but for the one thing that they name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Kind {
    change: Change,
    /// `namespace/service account`
    source: String,
    destination: String,
    /// Absent for raw TCP.
    method: Option<String>,
    /// The path with `{*}` for what is variable in it; for raw TCP the port.
    path: String,
    /// What policies said then.
    then: Verdict,
    /// What decides now.
    policy: Option<String>,
    rule: Option<u32>,
    file: Option<String>,
    line: Option<u32>,
    reason: String,
    /// What is not recorded.
    unknown: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Group {
    #[serde(flatten)]
    kind: Kind,
    count: u64,
    first: String,
    last: String,
    traces: Vec<String>,
    /// Of a default deny: the rule that came closest.
    nearest_miss: Option<NearestMiss>,
}

/// What a replay found.
pub(in crate::commands::policy) struct Report {
    generation: Generation,
    pub(super) same: u64,
    pub(super) before_policies: u64,
    pub(super) undecided: u64,
    pub(super) took: Duration,
    counts: BTreeMap<Change, u64>,
    /// Undecidable requests by what is not recorded.
    unknown: BTreeMap<String, u64>,
    groups: BTreeMap<Kind, Group>,
    /// Requests that no group has a place for.
    ungrouped: u64,
    /// Requests that were allowed and of which it cannot be told, or that are not understood.
    untold: u64,
    called: BTreeSet<String>,
    gone: Vec<String>,
}

impl Report {
    pub(super) fn new(generation: Generation) -> Self {
        Self {
            generation,
            same: 0,
            before_policies: 0,
            undecided: 0,
            took: Duration::ZERO,
            counts: BTreeMap::new(),
            unknown: BTreeMap::new(),
            groups: BTreeMap::new(),
            ungrouped: 0,
            untold: 0,
            called: BTreeSet::new(),
            gone: Vec::new(),
        }
    }

    /// Notes which of the called workloads have no proxy any more.
    pub(super) fn beside(mut self, mesh: &Mesh) -> Self {
        self.gone = self.called.difference(&mesh.names()).cloned().collect();
        self
    }

    pub(super) fn called(&mut self, entry: &Entry) {
        let destination = entry.destination();
        if !self.called.contains(&destination) {
            self.called.insert(destination);
        }
    }

    /// A record that cannot be decided.
    pub(super) fn unknown(&mut self, why: &str) {
        self.untold += 1;
        *self.counts.entry(Change::Undecidable).or_default() += 1;
        *self.unknown.entry(why.to_owned()).or_default() += 1;
    }

    pub(super) fn add(
        &mut self,
        change: Change,
        entry: &Entry,
        decision: Option<&Decision>,
        unknown: Vec<String>,
        nearest: impl FnOnce(&Decision) -> Option<NearestMiss>,
    ) {
        *self.counts.entry(change).or_default() += 1;
        if change == Change::Undecidable && entry.permitted() == Verdict::Allow {
            self.untold += 1;
        }
        for name in &unknown {
            *self.unknown.entry(name.clone()).or_default() += 1;
        }
        let kind = Kind::new(change, entry, decision, unknown);
        if let Some(group) = self.groups.get_mut(&kind) {
            group.count += 1;
            if entry.time < group.first {
                group.first.clone_from(&entry.time);
            }
            if entry.time > group.last {
                group.last.clone_from(&entry.time);
            }
            if group.traces.len() < MAX_TRACES && !group.traces.contains(&entry.trace) {
                group.traces.push(entry.trace.clone());
            }
        } else if self.groups.len() == MAX_GROUPS {
            self.ungrouped += 1;
        } else {
            let (first, last) = (entry.time.clone(), entry.time.clone());
            let traces = vec![entry.trace.clone()];
            let nearest_miss = decision.and_then(nearest);
            let group = Group { kind: kind.clone(), count: 1, first, last, traces, nearest_miss };
            self.groups.insert(kind, group);
        }
    }

    fn count(&self, change: Change) -> u64 {
        self.counts.get(&change).copied().unwrap_or_default()
    }

    /// Requests that would be denied and were allowed.
    pub(in crate::commands::policy) fn breaks(&self) -> u64 {
        self.count(Change::Breaks)
    }

    /// Requests that would be allowed and were denied.
    pub(in crate::commands::policy) fn allows(&self) -> u64 {
        self.count(Change::Allows)
    }

    /// Requests of which it cannot be told.
    pub(in crate::commands::policy) fn undecidable(&self) -> u64 {
        self.count(Change::Undecidable)
    }

    /// Requests that were allowed and of which it is not proven that they would be.
    pub(in crate::commands::policy) fn unproven(&self) -> u64 {
        self.breaks() + self.untold
    }

    /// Those by kind, a line each.
    pub(in crate::commands::policy) fn unproven_words(&self) -> String {
        let is_open = |group: &&Group| match group.kind.change {
            Change::Breaks => true,
            Change::Undecidable => group.kind.then == Verdict::Allow,
            Change::Allows => false,
        };
        self.groups
            .values()
            .filter(is_open)
            .map(|group| format!("  {}\n", group.words("")))
            .collect()
    }

    /// Requests that were decided once more, or tried to.
    pub(in crate::commands::policy) fn decided(&self) -> u64 {
        self.same + self.counts.values().sum::<u64>()
    }

    pub(super) fn print_json(&self, query: &AuditQuery) -> Result<(), Failure> {
        let mut groups: Vec<&Group> = self.groups.values().collect();
        groups.sort_by_key(|group| (group.kind.change, std::cmp::Reverse(group.count)));
        output::json(&json!({
            "generation": self.generation,
            "since": query.since,
            "until": query.until,
            "decisions": self.decided(),
            "same": self.same,
            "breaks": self.breaks(),
            "allows": self.allows(),
            "undecidable": self.undecidable(),
            "unknown": self.unknown,
            "before_policies": self.before_policies,
            "undecided": self.undecided,
            "ungrouped": self.ungrouped,
            "gone": self.gone,
            "took_ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            "groups": groups,
        }))
    }

    /// Prints it for people.
    pub(super) fn print(&self, directory: &str) -> Result<(), Failure> {
        output::line(&format!(
            "{} re-evaluated in {:.1} s: {} same, {} ALLOW→DENY, {} DENY→ALLOW, {} undecidable",
            things(self.decided(), "recorded decision"),
            self.took.as_secs_f64(),
            self.same,
            self.breaks(),
            self.allows(),
            self.undecidable()
        ))?;
        for (change, title) in [
            (Change::Breaks, "would break"),
            (Change::Allows, "would be newly allowed"),
            (
                Change::Undecidable,
                "cannot be told, because the record does not hold what a rule reads",
            ),
        ] {
            self.print_groups(change, title, directory)?;
        }
        self.print_edges()
    }

    fn print_groups(&self, change: Change, title: &str, directory: &str) -> Result<(), Failure> {
        let mut groups: Vec<&Group> =
            self.groups.values().filter(|group| group.kind.change == change).collect();
        if groups.is_empty() {
            return Ok(());
        }
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        output::line(&coloured(title, Colour::Bold))?;
        for group in groups {
            output::line(&format!("  {}", group.words(directory)))?;
            output::line(&format!("        trace {}", group.traces.join(", ")))?;
        }
        Ok(())
    }

    fn print_edges(&self) -> Result<(), Failure> {
        let mut notes = Vec::new();
        let mut note = |count: u64, what: &str| {
            if count > 0 {
                notes.push(format!("{count} {what}"));
            }
        };
        note(self.before_policies, "refused before any policy was asked");
        note(self.undecided, "given up by the client before a decision");
        note(self.ungrouped, "of too many kinds to be listed");
        if !notes.is_empty() {
            output::line(&format!("not shown: {}", notes.join(", ")))?;
        }
        if !self.gone.is_empty() {
            output::line(&format!(
                "no longer in the mesh, decided by the labels they had: {}",
                self.gone.join(", ")
            ))?;
        }
        let edges = |change| {
            let of = self.groups.values().filter(|group| group.kind.change == change);
            of.map(|g| (&g.kind.source, &g.kind.destination)).collect::<BTreeSet<_>>().len()
        };
        let (breaks, allows) = (edges(Change::Breaks), edges(Change::Allows));
        output::line(&match (breaks, allows, self.undecidable()) {
            (0, 0, 0) => "Result: nothing would change".to_owned(),
            (0, 0, _) => "Result: nothing is known to change".to_owned(),
            (breaks, allows, _) => format!(
                "Result: {} would break, {} would be newly allowed",
                counted(breaks, "edge"),
                counted(allows, "edge")
            ),
        })
    }
}

impl Kind {
    fn new(
        change: Change,
        entry: &Entry,
        decision: Option<&Decision>,
        unknown: Vec<String>,
    ) -> Self {
        let by = decision.and_then(|decision| decision.by.as_ref());
        let (method, path) = match &entry.facts.http {
            None => (None, format!("port {}", entry.facts.port.unwrap_or_default())),
            Some(http) => {
                let route = decision.and_then(|decision| decision.route.as_deref());
                let route = route.or(entry.route.as_deref());
                let path = route.map_or_else(|| shape(&http.path), str::to_owned);
                (Some(http.method.to_string()), path)
            }
        };
        Self {
            change,
            source: short(entry.source.as_deref()),
            destination: entry.destination(),
            method,
            path,
            then: entry.permitted(),
            policy: by.map(|by| by.policy().to_owned()),
            rule: by.and_then(picket_policy::PolicyRef::rule),
            file: by.map(|by| by.file().to_string()),
            line: by.map(picket_policy::PolicyRef::line),
            reason: match decision {
                Some(decision) => decision.code.as_str().to_owned(),
                None if change == Change::Undecidable => "undecidable".to_owned(),
                None => entry.then.reason.clone(),
            },
            unknown,
        }
    }
}

impl Group {
    fn words(&self, directory: &str) -> String {
        let Kind { source, destination, method, path, .. } = &self.kind;
        let what = match method {
            Some(method) => format!("{method} {path}"),
            None => format!("TCP {path}"),
        };
        format!(
            "{:>4}  {source} → {destination}  {what}   first {}, last {}   {}",
            self.count,
            seconds(&self.first),
            seconds(&self.last),
            self.why(directory)
        )
    }

    fn why(&self, directory: &str) -> String {
        let place = |file: &str, line: u32| match directory.trim_end_matches('/') {
            "" => format!("{file}:{line}"),
            directory => format!("{directory}/{file}:{line}"),
        };
        match &self.kind {
            Kind { change: Change::Undecidable, unknown, then, .. } => {
                format!("was {}; not recorded: {}", then.as_str(), unknown.join(", "))
            }
            Kind { file: Some(file), line: Some(line), .. } => place(file, *line),
            Kind { reason, .. } => match &self.nearest_miss {
                None => reason.clone(),
                Some(miss) => {
                    let failed: Vec<&str> = miss.failed.iter().map(|f| f.field.as_str()).collect();
                    let nearest = place(&miss.file, miss.line);
                    format!("{reason}, nearest {nearest} but for {}", failed.join(", "))
                }
            },
        }
    }
}

/// A large number of things.
fn things(count: u64, thing: &str) -> String {
    counted(usize::try_from(count).unwrap_or(usize::MAX), thing)
}
