//! The registry as an operator sees it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Instance, Registry};
use crate::clock;
use crate::operator::{AuditAccount, Certificate, Endpoint, ProxyState, ProxyStatus};
use crate::revocations::List;

/// How long nothing may be heard of a proxy; heartbeats come every five seconds.
pub(crate) const SILENT: Duration = Duration::from_secs(15);

impl Registry {
    /// Every proxy that is known, by workload. What the store holds of a boot is the caller's to add.
    /// `current` names the policies and the revocations in force.
    pub(crate) fn status(
        &self,
        current: (Option<&str>, &List),
        now: SystemTime,
    ) -> Vec<ProxyStatus> {
        let mut proxies: Vec<ProxyStatus> = self
            .instances
            .iter()
            .filter(|instance| instance.last_contact != 0)
            .map(|instance| self.proxy(&instance, current, now))
            .collect();
        proxies.sort_by(|a, b| (&a.workload, &a.boot).cmp(&(&b.workload, &b.boot)));
        proxies
    }

    fn proxy(
        &self,
        instance: &Instance,
        (current, revoked): (Option<&str>, &List),
        now: SystemTime,
    ) -> ProxyStatus {
        let refusal = instance.refusal.as_ref().filter(|(g, _)| Some(g.as_str()) == current);
        let last_contact = clock::from_milliseconds(instance.last_contact);
        let quiet = now.duration_since(last_contact).unwrap_or_default();
        let serial = instance.certificate.as_ref().map(|(serial, _)| serial.as_str());
        let state = if !self.is_leased(instance, now) {
            ProxyState::Gone
        } else if revoked.refuses_holder(&instance.spiffe_id, serial, now) {
            ProxyState::Revoked
        } else if quiet > SILENT {
            ProxyState::Silent
        } else if refusal.is_some() {
            ProxyState::Refused
        } else if current.is_none_or(|current| instance.generation == current)
            && instance.revocations == revoked.revision
        {
            ProxyState::Synced
        } else {
            ProxyState::Stale
        };
        let endpoints = instance.endpoints.iter().map(|endpoint| Endpoint {
            address: endpoint.address,
            service_port: endpoint.service_port,
            protocol: endpoint.protocol_name().to_owned(),
        });
        let certificate = instance.certificate.as_ref().map(|(serial, not_after)| {
            let seconds = u64::try_from(*not_after).unwrap_or(0).min(u64::from(u32::MAX));
            let not_after = clock::rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
            Certificate { serial: serial.clone(), not_after }
        });
        let audit = instance.audit.map(|account| AuditAccount {
            emitted: account.emitted,
            acknowledged: account.acknowledged,
            pending: account.pending,
            lost: account.lost,
            stored: 0,
            spool_bytes: account.spool_bytes,
            spool_limit: account.spool_limit,
        });
        ProxyStatus {
            workload: format!("{}/{}", instance.namespace, instance.service_account),
            spiffe_id: instance.spiffe_id.clone(),
            service: instance.service.clone(),
            labels: instance.labels.clone(),
            endpoints: endpoints.collect(),
            boot: instance.boot.clone(),
            version: instance.version.clone(),
            state,
            connected: instance.session.is_some(),
            generation: instance.generation.clone(),
            revocations: instance.revocations,
            refusal: refusal.map(|(_, reason)| reason.clone()),
            applied_in_us: instance.applied_in_us,
            certificate,
            renewal_error: Some(&instance.renewal_error).filter(|e| !e.is_empty()).cloned(),
            last_contact: clock::rfc3339(last_contact),
            clock_offset_ms: instance.clock_offset_ms,
            audit,
        }
    }
}
