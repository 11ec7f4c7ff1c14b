//! `picket policy unused`: rules that no recorded request matches.
//!
//! A rule counts as used if it matches, also where another one decided: removing it would then not be noticed today, but
//! it says what happens. Where a record does not hold what the rule reads it is listed apart.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use picket_policy::{Holds, PolicyRef, Workload, WorkloadPolicy};
use serde::Serialize;
use serde_json::json;

use super::read;
use crate::args::{ControlArguments, Format, UnusedCommand};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::{self, counted};
use crate::recorded::{Entry, Mesh, Policies, Trail};

/// Kinds of requests that are remembered, so that what was looked at is not looked at again.
const MAX_SEEN: usize = 1 << 20;

/// One rule, and whether it is of use.
#[derive(Serialize)]
struct Finding {
    policy: String,
    rule: Option<u32>,
    file: String,
    line: u32,
    use_: Use,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Use {
    Used,
    /// Some request may have matched: what the rule reads is not recorded.
    Unknown,
    Unused,
    /// No request was recorded for any workload that its policy selects.
    NoRequests,
}

/// A workload, and how surely each of its rules matched.
struct Seen {
    policy: Arc<WorkloadPolicy>,
    found: Vec<Holds>,
}

pub(super) async fn run(
    command: &UnusedCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let client = Client::new(control)?;
    let mesh = Mesh::ask(&client).await?;
    let mut policies = match &command.policies {
        Some(directory) => Policies::new(read(directory, mesh.settings.clone())?),
        None => mesh.in_force()?,
    };
    let mut workloads: HashMap<Workload, Seen> = HashMap::new();
    let mut kinds = HashSet::new();
    let query = command.since.query()?;
    let mut trail = Trail::decisions(&client, query.clone());
    let (mut requests, mut unread) = (0_u64, 0_u64);
    while let Some(page) = trail.next().await? {
        for record in &page.records {
            let Ok(entry) = Entry::read(record) else { continue };
            requests += 1;
            if entry.missing.is_some() {
                unread += 1;
                continue;
            }
            let mut kind = DefaultHasher::new();
            (&entry.workload, &entry.facts).hash(&mut kind);
            if kinds.contains(&kind.finish()) {
                continue;
            }
            if kinds.len() < MAX_SEEN {
                kinds.insert(kind.finish());
            }
            let seen = workloads.entry(entry.workload.clone()).or_insert_with(|| {
                let policy = policies.of(&entry.workload);
                Seen { found: vec![Holds::No; policy.rules().count()], policy }
            });
            seen.policy.match_rules(&entry.facts, &mut seen.found);
        }
    }
    let findings = findings(&policies, &workloads);
    let unused =
        findings.iter().filter(|f| matches!(f.use_, Use::Unused | Use::NoRequests)).count();
    match command.output.format {
        Format::Json => output::json(&json!({
            "generation": policies.set.generation(),
            "since": query.since,
            "until": query.until,
            "requests": requests,
            "unread": unread,
            "rules": findings.len(),
            "unused": listed(&findings, &[Use::Unused, Use::NoRequests]),
            "unknown": listed(&findings, &[Use::Unknown]),
        }))?,
        Format::Table => {
            print(&findings)?;
            let requests = usize::try_from(requests).unwrap_or(usize::MAX);
            eprintln!(
                "{} of {} match none of {}",
                unused,
                counted(findings.len(), "rule"),
                counted(requests, "recorded request")
            );
        }
    }
    Ok(if unused > 0 && command.exit_code { Exit::Problems } else { Exit::Fine })
}

fn findings(policies: &Policies, workloads: &HashMap<Workload, Seen>) -> Vec<Finding> {
    // A policy may select several workloads: the surest of them counts.
    let mut best: BTreeMap<(String, Option<u32>), Holds> = BTreeMap::new();
    for seen in workloads.values() {
        for (by, found) in seen.policy.rules().zip(&seen.found) {
            let place = best.entry((by.policy().to_owned(), by.rule())).or_insert(Holds::No);
            *place = (*place).max(*found);
        }
    }
    let of = |by: &PolicyRef| match best.get(&(by.policy().to_owned(), by.rule())) {
        None => Use::NoRequests,
        Some(Holds::No) => Use::Unused,
        Some(Holds::Unknown) => Use::Unknown,
        Some(Holds::Yes) => Use::Used,
    };
    let finding = |by: PolicyRef| Finding {
        use_: of(&by),
        policy: by.policy().to_owned(),
        rule: by.rule(),
        file: by.file().to_string(),
        line: by.line(),
    };
    policies.set.rules().map(finding).collect()
}

fn listed(findings: &[Finding], uses: &[Use]) -> Vec<serde_json::Value> {
    let of = findings.iter().filter(|finding| uses.contains(&finding.use_));
    of.map(|Finding { policy, rule, file, line, use_ }| {
        json!({"policy": policy, "rule": rule, "file": file, "line": line, "why": use_})
    })
    .collect()
}

fn print(findings: &[Finding]) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = findings
        .iter()
        .filter(|finding| finding.use_ != Use::Used)
        .map(|Finding { policy, rule, file, line, use_ }| {
            let why = match use_ {
                Use::Unused => "no recorded request matches",
                Use::NoRequests => "no request was recorded for a workload that it selects",
                _ => "cannot be told: what it reads is not recorded",
            };
            let rule = rule.map_or_else(|| "-".to_owned(), |rule| format!("rule[{rule}]"));
            vec![policy.clone(), rule, format!("{file}:{line}"), why.to_owned()]
        })
        .collect();
    if rows.is_empty() {
        return output::line("every rule matches a recorded request");
    }
    output::table(&["POLICY", "RULE", "PLACE", "WHY"], &rows)
}
