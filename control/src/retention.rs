//! How long audit records are kept: by age and by size, as `audit.retention` says.
//!
//! The oldest go first, a few at a time, so that records come in meanwhile. What went is on the record (`audit.prune`),
//! and so is that something should have gone and may not: what was not exported yet, or is younger than an hour, stays
//! however full the store is.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use picket_api::attributes as names;
use tokio::time::sleep;

use crate::clock;
use crate::config::Retention;
use crate::control::Control;
use crate::export;
use crate::journal::{Act, Event};
use crate::store::StoreError;
use crate::store::prune::{self, Limits, Step, Why};

/// How often it is looked whether something has to go.
const PERIOD: Duration = Duration::from_secs(30);
/// Age below which no record goes for want of room.
const FLOOR: Duration = Duration::from_secs(3600);
/// Between two reports that something may not go.
const REPORT: Duration = Duration::from_secs(3600);

/// Keeps the store within its limits until the control plane ends.
pub(crate) async fn keep(control: Arc<Control>, retention: Retention) {
    if retention == Retention::default() {
        return;
    }
    let mut reported: Option<(Why, SystemTime)> = None;
    loop {
        let now = SystemTime::now();
        match pass(&control, retention, now).await {
            Ok(None) => reported = None,
            Ok(Some(why)) => {
                let is_known = reported.is_some_and(|(known, at)| {
                    known == why && now.duration_since(at).is_ok_and(|since| since < REPORT)
                });
                if !is_known {
                    reported = Some((why, now));
                    let detail = "the store is larger than audit.retention.maxSize";
                    tracing::warn!(reason = why.code(), detail, "audit records cannot be removed");
                    let act = Act::refused(Event::Prune, now, why.code());
                    control.journal.note(act.with(names::DETAIL, detail)).await;
                }
            }
            Err(error) => {
                tracing::error!(error = %crate::chain(&error), "audit records could not be removed");
            }
        }
        tokio::select! {
            () = control.stop.cancelled() => return,
            () = sleep(PERIOD) => {}
        }
    }
}

/// Removes what has to go now; says why something that has to may not.
async fn pass(
    control: &Control,
    retention: Retention,
    now: SystemTime,
) -> Result<Option<Why>, StoreError> {
    let nanoseconds = |at: Option<SystemTime>| {
        at.map_or(0, |at| i64::try_from(clock::nanoseconds(at)).unwrap_or(i64::MAX))
    };
    let limits = Limits {
        before: retention.max_age.map(|age| nanoseconds(now.checked_sub(age))),
        size: retention.max_size,
        floor: nanoseconds(now.checked_sub(FLOOR)),
        export: control.export.as_ref().map(|_| export::CURSOR),
    };
    let mut kept = None;
    while !control.stop.is_cancelled() {
        match control.store.write(move |writing| prune::step(writing, limits)).await? {
            Step::Removed(_) => {}
            Step::Enough => break,
            Step::Kept(why) => {
                kept = Some(why);
                break;
            }
        }
    }
    let journal = control.journal.clone();
    let entered = control.store.write(move |writing| {
        let removed = prune::report(writing)?;
        if removed > 0 {
            let (through, all) = prune::totals(writing)?;
            let detail =
                serde_json::json!({ "records": removed, "through": through, "in_all": all });
            let act = Act::granted(Event::Prune, now).with(names::DETAIL, detail.to_string());
            journal.enter(writing, &act)?;
        }
        Ok(removed)
    });
    if entered.await? > 0 {
        tracing::info!("old audit records were removed");
        while control.store.write(|writing| prune::shrink(writing)).await? {}
    }
    Ok(kept)
}
