//! What is done again and again for as long as the control plane runs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use crate::clock;
use crate::control::Control;
use crate::store::{StoreError, alerts, certificates, deliveries, responses, silences, tokens};

/// How often leases are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// How often the registry is kept: heartbeats come as often, and need no commit each.
const KEEP: Duration = Duration::from_secs(5);
/// How often what is long over is forgotten.
const FORGET: Duration = Duration::from_secs(3600);

/// How long responses are kept that are over.
const RESPONSES: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long it is remembered what was delivered.
const DELIVERIES: Duration = Duration::from_secs(7 * 24 * 3600);

/// Replaces the control plane's own certificate at half its life.
pub(super) async fn renew_own(control: Arc<Control>) {
    loop {
        let left = control.authority.listener_tls().not_after.duration_since(SystemTime::now());
        let wait = left.unwrap_or_default().max(Duration::from_secs(10)) / 2;
        tokio::select! {
            () = control.stop.cancelled() => return,
            () = sleep(wait) => {}
        }
        match control.authority.renew_own(SystemTime::now()) {
            Ok(()) => tracing::info!("the control plane's own certificate was renewed"),
            Err(error) => tracing::error!(
                error = %crate::chain(&error), "the control plane's own certificate was not renewed"
            ),
        }
    }
}

/// Ends leases, keeps the registry, and forgets what is long over.
pub(super) async fn sweep(control: Arc<Control>) {
    let (mut keep_at, mut forget_at) = (Instant::now() + KEEP, Instant::now() + FORGET);
    loop {
        tokio::select! {
            () = control.stop.cancelled() => return,
            () = sleep(SWEEP) => {}
        }
        let now = SystemTime::now();
        control.registry.sweep(now);
        let (quiet, heard) = control.registry.silence(now);
        control.ledger.silence(quiet, &heard, now).await;
        report(control.notices.end_silences(now).await);
        report(control.notices.end_flapping(now).await);
        report(control.notices.tell_digests(now).await);
        if let Err(error) = control.subjects.rotate(now).await {
            tracing::error!(error = %crate::chain(&error), "there is no new key for subjects' hashes");
        }
        if Instant::now() >= keep_at {
            keep_at = Instant::now() + KEEP;
            report(control.registry.keep().await);
        }
        if Instant::now() >= forget_at {
            forget_at = Instant::now() + FORGET;
            let now = clock::milliseconds(now);
            let alerts_before = now.saturating_sub(milliseconds(control.config.alerting.retention));
            let forget = control.store.write(move |connection| {
                tokens::forget_old(connection, now)?;
                certificates::forget_old(connection, now)?;
                silences::forget_old(connection, now)?;
                responses::forget_old(connection, now.saturating_sub(milliseconds(RESPONSES)))?;
                alerts::forget_old(connection, alerts_before)?;
                deliveries::forget_old(connection, now.saturating_sub(milliseconds(DELIVERIES)))
                    .map(drop)
            });
            report(forget.await);
            report(control.revocations.forget_over(SystemTime::now()).await);
        }
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn report(kept: Result<(), StoreError>) {
    if let Err(error) = kept {
        tracing::error!(error = %crate::chain(&error), "the database could not be kept up");
    }
}
