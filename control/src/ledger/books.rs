//! The books, emitter by emitter and minute by minute: emitted = stored + open + pending + lost + missing.
//!
//! Of a completed record the chain's position is what counts: a position below the newest head without a
//! record is pending until it had time to arrive, and then missing, unless it is declared lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use picket_api::attributes as names;

use super::Ledger;
use crate::clock;
use crate::journal::{Act, Event};
use crate::operator::{AccountMinute, Accounts, EmitterAccount, MissingRecords};
use crate::store::StoreError;
use crate::store::books::{self, Missing};

/// How long a record may be on its way.
pub(crate) const SETTLE: Duration = Duration::from_secs(30);

/// Reasons for which records are lost after they were completed: they had a place in the chain.
const AFTER_COMPLETION: [&str; 4] = ["aged", "damaged", "refused", "unsynced"];

/// What `lost` says of records that no declaration has come for yet.
const UNDECLARED: &str = "undeclared";

/// What is to be accounted for.
pub(crate) struct Wanted {
    /// Minutes since 1970: the first, and the one after the last.
    pub(crate) minutes: (i64, i64),
    /// Only of this emitter.
    pub(crate) emitter: Option<String>,
}

impl Ledger {
    /// The accounts of the wanted minutes.
    pub(crate) async fn accounts(
        &self,
        wanted: Wanted,
        now: SystemTime,
    ) -> Result<Accounts, StoreError> {
        let now = clock::milliseconds(now);
        self.store.read(move |connection| accounts(connection, &wanted, now)).await
    }

    /// Puts on the record what is missing and should have come by now.
    pub(super) async fn settle(&self, now: SystemTime) -> Result<(), StoreError> {
        let at = clock::milliseconds(now);
        let missing = self.store.read(move |c| explained(c, books::missing(c)?)).await?;
        let due = |missing: &&Missing| is_settled(missing, at) && !missing.is_reported;
        let mut count = 0;
        for hole in missing.iter().filter(|missing| is_settled(missing, at)) {
            count += hole.last - hole.first + 1;
        }
        self.metrics.missing_records(u64::try_from(count).unwrap_or(0));
        for hole in missing.iter().filter(due) {
            let Missing { spiffe_id, boot, lane, first, last, is_tail, .. } = hole;
            let count = last - first + 1;
            let end = if *is_tail { ", the last ones that a signed head tells of" } else { "" };
            // A tail has no row of its own to be marked.
            if *is_tail && !self.is_news(&format!("tail {boot} {lane} {first}")) {
                continue;
            }
            tracing::error!(
                emitter = spiffe_id,
                boot,
                lane,
                first,
                last,
                "audit records are missing{end}"
            );
            let detail = format!(
                "{count} records of boot {boot}, lane {lane} are missing: positions {first} to {last}{end}"
            );
            let act = Act::granted(Event::Gap, now)
                .subject(spiffe_id)
                .with(names::DETAIL, detail)
                .with(names::GAP_BOOT, boot.as_str());
            let (journal, hole) = (self.journal.clone(), hole.clone());
            let write = self.store.write(move |writing| {
                books::reported(writing, &hole, at)?;
                journal.enter(writing, &act)
            });
            write.await?;
        }
        Ok(())
    }

    /// Records that should have come and have not, lane by lane, in words.
    pub(crate) async fn unaccounted(&self, now: SystemTime) -> Result<Vec<String>, StoreError> {
        let at = clock::milliseconds(now);
        let missing = self.store.read(move |c| explained(c, books::missing(c)?)).await?;
        let due = missing.iter().filter(|missing| is_settled(missing, at));
        let words = due.map(|Missing { spiffe_id, boot, lane, first, last, .. }| {
            let count = last - first + 1;
            format!("{count} records of {spiffe_id} (boot {boot}, lane {lane}) are missing")
        });
        Ok(words.collect())
    }

    /// Puts on the record that an emitter is not heard of any more, and that it is again. `quiet` names
    /// boots with their emitter and since when, `heard` those that are heard of.
    pub(crate) async fn silence(
        &self,
        quiet: Vec<(String, String, SystemTime)>,
        heard: &BTreeSet<String>,
        now: SystemTime,
    ) {
        for (boot, emitter, since) in quiet {
            if !self.is_news(&format!("silent {boot}")) {
                continue;
            }
            let detail = format!("boot {boot}: nothing was heard since {}", clock::rfc3339(since));
            tracing::error!(emitter, boot, "an emitter of audit records has gone silent");
            let act = Act::refused(Event::Silent, now, "silent").subject(&emitter);
            self.journal.note(act.with(names::DETAIL, detail)).await;
        }
        for boot in heard {
            if self.is_over(&format!("silent {boot}")) {
                let act = Act::granted(Event::Silent, now).with(names::GAP_BOOT, boot.as_str());
                self.journal.note(act.with(names::DETAIL, "it is heard of again")).await;
            }
        }
    }
}

fn is_settled(missing: &Missing, now: i64) -> bool {
    let settle = i64::try_from(SETTLE.as_millis()).unwrap_or(i64::MAX);
    missing.since + settle <= now
}

/// What is missing after what was declared lost: declarations are counted off from the first hole on.
fn explained(
    connection: &rusqlite::Connection,
    missing: Vec<Missing>,
) -> Result<Vec<Missing>, StoreError> {
    let mut declared = BTreeMap::<(i64, i64), i64>::new();
    for gap in books::declared(connection)? {
        if AFTER_COMPLETION.contains(&gap.reason.as_str()) {
            *declared.entry((gap.emitter, gap.lane)).or_default() += gap.count;
        }
    }
    let mut left = Vec::new();
    for mut hole in missing {
        let count = hole.last - hole.first + 1;
        let declared = declared.entry((hole.emitter, hole.lane)).or_default();
        let covered = count.min(*declared);
        *declared -= covered;
        hole.first += covered;
        if hole.first <= hole.last {
            left.push(hole);
        }
    }
    Ok(left)
}

fn accounts(
    connection: &rusqlite::Connection,
    wanted: &Wanted,
    now: i64,
) -> Result<Accounts, StoreError> {
    let emitters = books::emitters(connection)?;
    let (first, end) = wanted.minutes;
    let mut found = BTreeMap::<String, BTreeMap<i64, AccountMinute>>::new();
    let mut at = |emitter: i64, minute: i64, change: &dyn Fn(&mut AccountMinute)| {
        let Some(id) = emitters.get(&emitter) else { return };
        let is_wanted = wanted.emitter.as_ref().is_none_or(|wanted| wanted == id);
        if is_wanted && (first..end).contains(&minute) {
            change(found.entry(id.clone()).or_default().entry(minute).or_default());
        }
    };
    let count = |count: i64| u64::try_from(count).unwrap_or(0);
    for (emitter, minute, stored) in books::stored(connection, first, end)? {
        at(emitter, minute, &|account| account.stored += count(stored));
    }
    let mut shed = BTreeMap::<(i64, i64), i64>::new();
    for gap in books::declared(connection)? {
        if !AFTER_COMPLETION.contains(&gap.reason.as_str()) {
            *shed.entry((gap.emitter, gap.lane)).or_default() += gap.count;
        }
        at(gap.emitter, gap.minute, &|account| {
            *account.lost.entry(gap.reason.clone()).or_default() += count(gap.count);
        });
    }
    for head in books::newest(connection)? {
        let undeclared = head.lost - shed.get(&(head.emitter, head.lane)).copied().unwrap_or(0);
        at(head.emitter, head.minute, &|account| {
            account.open += count(head.open);
            if undeclared > 0 {
                *account.lost.entry(UNDECLARED.to_owned()).or_default() += count(undeclared);
            }
        });
    }
    let mut holes = Vec::new();
    for hole in explained(connection, books::missing(connection)?)? {
        let missing = count(hole.last - hole.first + 1);
        let is_settled = is_settled(&hole, now);
        at(hole.emitter, hole.minute, &|account| match is_settled {
            true => account.missing += missing,
            false => account.pending += missing,
        });
        let is_wanted = wanted.emitter.as_ref().is_none_or(|wanted| *wanted == hole.spiffe_id);
        if is_settled && is_wanted && (first..end).contains(&hole.minute) {
            holes.push(MissingRecords {
                emitter: hole.spiffe_id,
                boot: hole.boot,
                lane: hole.lane,
                first: hole.first,
                last: hole.last,
                since: clock::rfc3339(clock::from_milliseconds(hole.since)),
            });
        }
    }
    let emitters = found.into_iter().map(|(emitter, minutes)| emitter_account(emitter, minutes));
    Ok(Accounts {
        since: minute_text(first),
        until: minute_text(end),
        settle_seconds: SETTLE.as_secs(),
        emitters: emitters.collect(),
        missing: holes,
    })
}

fn minute_text(minute: i64) -> String {
    clock::rfc3339(clock::from_milliseconds(minute.saturating_mul(60_000)))
}

fn emitter_account(emitter: String, minutes: BTreeMap<i64, AccountMinute>) -> EmitterAccount {
    let mut total = AccountMinute::default();
    let minutes = minutes.into_iter().map(|(minute, mut account)| {
        account.minute = minute_text(minute);
        account.emitted = account.stored
            + account.open
            + account.pending
            + account.missing
            + account.lost.values().sum::<u64>();
        total.emitted += account.emitted;
        total.stored += account.stored;
        total.open += account.open;
        total.pending += account.pending;
        total.missing += account.missing;
        for (reason, count) in &account.lost {
            *total.lost.entry(reason.clone()).or_default() += count;
        }
        account
    });
    let minutes = minutes.collect();
    EmitterAccount { emitter, total, minutes }
}
