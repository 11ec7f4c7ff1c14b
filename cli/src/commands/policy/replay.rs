//! `picket policy replay`: what a candidate set would change for whom, by what was recorded.

mod report;

use std::time::Instant;

use picket_control::operator::AuditQuery;
use picket_policy::Verdict;

use super::read;
use crate::args::{ControlArguments, Format, ReplayCommand, SinceArguments};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::recorded::{Decided, Entry, Mesh, Policies, Trail, Unread, time};
use report::Change;
pub(super) use report::Report;

pub(super) async fn run(
    command: &ReplayCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let client = Client::new(control)?;
    let mesh = Mesh::ask(&client).await?;
    let mut candidate = Policies::new(read(&command.dir, mesh.settings.clone())?);
    let query = command.since.query()?;
    let trail = Trail::decisions(&client, query.clone());
    let report = replay(trail, &mut candidate).await?;
    let report = report.beside(&mesh);
    match command.output.format {
        Format::Json => report.print_json(&query)?,
        Format::Table => report.print(&command.dir.display().to_string())?,
    }
    let fails = report.breaks() > 0
        || (command.fail_on_allowed && report.allows() > 0)
        || (command.fail_on_undecidable && report.undecidable() > 0);
    Ok(if fails { Exit::Problems } else { Exit::Fine })
}

/// Decides every recorded request of a search once more.
pub(super) async fn replay(
    mut trail: Trail<'_>,
    candidate: &mut Policies,
) -> Result<Report, Failure> {
    let started = Instant::now();
    let mut report = Report::new(candidate.set.generation());
    while let Some(page) = trail.next().await? {
        for record in &page.records {
            match Entry::read(record) {
                Ok(entry) => one(&entry, candidate, &mut report),
                Err(Unread::BeforePolicies) => report.before_policies += 1,
                Err(Unread::Undecided) => report.undecided += 1,
                Err(Unread::Unknown) => report.unknown("a record that is not understood"),
            }
        }
    }
    report.took = started.elapsed();
    Ok(report)
}

fn one(entry: &Entry, candidate: &mut Policies, report: &mut Report) {
    let decided = candidate.decide(entry);
    let change = match (entry.permitted(), decided.verdict()) {
        (then, Some(now)) if then == now => {
            report.same += 1;
            report.called(entry);
            return;
        }
        (Verdict::Allow, Some(_)) => Change::Breaks,
        (Verdict::Deny, Some(_)) => Change::Allows,
        (_, None) => Change::Undecidable,
    };
    let decision = match &decided {
        Decided::Now(decision) => Some(&**decision),
        _ => None,
    };
    let unknown = match &decided {
        Decided::Unknown(names) => names.iter().cloned().collect(),
        _ => Vec::new(),
    };
    let nearest = |decision: &_| candidate.explain(entry, decision).nearest_miss;
    report.called(entry);
    report.add(change, entry, decision, unknown, nearest);
}

impl SinceArguments {
    /// The search that is meant. It ends now at the latest, so that its pages come to an end.
    pub(super) fn query(&self) -> Result<AuditQuery, Failure> {
        let now = jiff::Timestamp::now().to_string();
        Ok(AuditQuery {
            since: time(Some(&self.since), "--since")?,
            until: time(self.until.as_deref(), "--until")?.or(Some(now)),
            source: self.source.clone(),
            destination: self.destination.clone(),
            ..AuditQuery::default()
        })
    }
}
