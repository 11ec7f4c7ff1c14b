//! Rules that raise more alerts than their budget: demoted, told of together, and told of one by one again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use picket_api::attributes as names;
use picket_detect::{Alert, Level, NoiseBudget};

use super::{Notice, Notices, State};
use crate::clock;
use crate::journal::{Act, Event};
use crate::store::alerts::Kept;
use crate::store::alerts::digests::{self, Demoted};
use crate::store::{StoreError, Writing, deliveries};

/// How often it is told what a demoted rule has raised since.
pub(crate) const PERIOD: Duration = Duration::from_secs(3600);

/// Why there is a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Demoted,
    GoesOn,
    Over,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Demoted => "demoted",
            Self::GoesOn => "goes-on",
            Self::Over => "over",
        }
    }
}

impl Notices {
    fn budget_of(&self, rule: &str) -> Option<NoiseBudget> {
        self.rules.load().as_ref()?.get(rule)?.budget
    }

    /// Keeps an alert for a digest if its rule is over its budget, and demotes the rule if it is so now.
    pub(super) fn keep_back(
        &self,
        writing: &Writing<'_>,
        kept: &Kept,
        now: i64,
    ) -> Result<bool, StoreError> {
        let alert = &kept.alert;
        let Some(budget) = self.budget_of(&alert.rule) else { return Ok(false) };
        if digests::of(writing, &alert.rule)?.is_none() {
            let after = now.saturating_sub(milliseconds(budget));
            if digests::counted(writing, &alert.rule, after, false)? < budget.alerts {
                return Ok(false);
            }
            let demoted = digests::demote(writing, &alert.rule, now)?;
            digests::keep(writing, &alert.id, now)?;
            let detail = format!("{}: more than {budget}", alert.title);
            let act = Act::refused(Event::DemoteRule, clock::from_milliseconds(now), "over_budget");
            let act = act.subject(&alert.rule).with(names::DETAIL, detail);
            self.journal.enter(writing, &act)?;
            self.metrics.digested();
            self.tell_together(writing, &demoted, Phase::Demoted, now)?;
            return Ok(true);
        }
        digests::keep(writing, &alert.id, now)?;
        self.metrics.digested();
        Ok(true)
    }

    /// Tells what demoted rules have raised, and of those that are within their budget again.
    pub(crate) async fn tell_digests(self: &Arc<Self>, now: SystemTime) -> Result<(), StoreError> {
        let at = clock::milliseconds(now);
        let own = Arc::clone(self);
        let read = move |connection: &_| {
            let all = digests::all(connection)?;
            let number = all.len();
            let mut due = Vec::new();
            for demoted in all {
                due.extend(own.due(connection, &demoted, at)?.map(|phase| (demoted, phase)));
            }
            Ok((number, due))
        };
        let (number, due) = self.store.read(read).await?;
        self.metrics.demoted(number);
        if due.is_empty() {
            return Ok(());
        }
        let own = Arc::clone(self);
        let tell = move |writing: &Writing<'_>| {
            for (demoted, phase) in due {
                // It may have raised something since.
                if own.due(writing, &demoted, at)? != Some(phase) {
                    continue;
                }
                own.tell_together(writing, &demoted, phase, at)?;
                if phase == Phase::Over {
                    digests::promote(writing, &demoted.rule)?;
                    let since = clock::rfc3339(clock::from_milliseconds(demoted.since));
                    let act = Act::granted(Event::PromoteRule, clock::from_milliseconds(at));
                    let act =
                        act.subject(&demoted.rule).with(names::DETAIL, format!("since {since}"));
                    own.journal.enter(writing, &act)?;
                }
            }
            Ok(())
        };
        self.store.write(tell).await
    }

    /// What is to be told of a demoted rule now.
    fn due(
        &self,
        connection: &rusqlite::Connection,
        demoted: &Demoted,
        now: i64,
    ) -> Result<Option<Phase>, StoreError> {
        // Rules that are not read yet may have a budget.
        if self.rules.load().is_none() {
            return Ok(None);
        }
        let Some(budget) = self.budget_of(&demoted.rule) else { return Ok(Some(Phase::Over)) };
        let after = now.saturating_sub(milliseconds(budget));
        if demoted.since <= after
            && digests::counted(connection, &demoted.rule, after, true)? <= budget.alerts
        {
            return Ok(Some(Phase::Over));
        }
        let period = i64::try_from(PERIOD.as_millis()).unwrap_or(i64::MAX);
        Ok((demoted.told_at.saturating_add(period) <= now).then_some(Phase::GoesOn))
    }

    fn tell_together(
        &self,
        writing: &Writing<'_>,
        demoted: &Demoted,
        phase: Phase,
        now: i64,
    ) -> Result<(), StoreError> {
        let (count, examples) = digests::waiting(writing, &demoted.rule)?;
        digests::told(writing, &demoted.rule, now)?;
        let Some(first) = examples.first().filter(|_| count > 0 || phase != Phase::GoesOn) else {
            return Ok(());
        };
        let examples = if count > 0 { examples.as_slice() } else { &[] };
        let budget = self.budget_of(&demoted.rule);
        // The same however often it is tried: of the rule, and of the time since which it tells.
        let key = format!("digest.{}.{}.{}", demoted.rule, demoted.told_at, phase.as_str());
        let notice = Notice {
            version: 1,
            key: key.clone(),
            state: State::Digest,
            at: clock::rfc3339(clock::from_milliseconds(now)),
            alert: together(&first.alert, examples, (count, phase, budget), demoted.told_at, now),
            traces: examples.iter().filter_map(|kept| kept.traces.first().cloned()).collect(),
            generation: None,
            episode: 0,
            flapping: false,
            link: None,
            response: None,
        };
        let text = serde_json::to_string(&notice);
        let text = text.map_err(|_| StoreError::Unreadable("a notice"))?;
        // That nobody is told of each is too much to miss, if it can be that bad.
        let is_for_all = phase == Phase::Demoted && first.alert.severity == Level::Critical;
        let notify = if is_for_all { Vec::new() } else { self.named_by(&demoted.rule) };
        let sinks = self.recipients(&notify, first.alert.severity);
        sinks.iter().try_for_each(|sink| deliveries::enter(writing, &sink.name, &key, &text, now))
    }
}

/// Several alerts of a rule as one: `count` is how many there were.
fn together(
    of: &Alert,
    examples: &[Kept],
    (count, phase, budget): (u64, Phase, Option<NoiseBudget>),
    since: i64,
    now: i64,
) -> Alert {
    let mut group = BTreeMap::from([
        ("alerts".to_owned(), count.to_string()),
        ("phase".to_owned(), phase.as_str().to_owned()),
    ]);
    group.extend(budget.map(|budget| ("budget".to_owned(), budget.to_string())));
    for (number, example) in (1..).zip(examples) {
        let about = example.alert.group.iter().map(|(name, value)| format!(" {name}={value}"));
        let text = format!("{}{}", example.alert.id, about.collect::<String>());
        group.insert(format!("example_{number}"), text);
    }
    let records = examples.iter().filter_map(|kept| kept.alert.records.first().cloned());
    let time = |at| clock::rfc3339(clock::from_milliseconds(at));
    Alert {
        id: format!("digest-{}", of.rule),
        fingerprint: format!("digest-{}", of.rule),
        group,
        first: time(since),
        last: time(now),
        count,
        records: records.collect(),
        anomaly: None,
        ..of.clone()
    }
}

fn milliseconds(budget: NoiseBudget) -> i64 {
    budget.within.saturating_mul(1_000)
}
