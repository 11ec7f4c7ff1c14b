//! The fields that an event can have: what rules may ask for.
//!
//! A list of its own, so that a misspelt name is an error and not a rule that silently never matches. It follows
//! `docs/audit-attributes.md`; a test of the `picket` command holds the two against each other.

/// Every field, in alphabetical order.
pub const KNOWN: &[&str] = &[
    "client.address",
    "duration_us",
    "error.type",
    "http.request.body.size",
    "http.request.method",
    "http.response.body.size",
    "http.response.status_code",
    "http.route",
    "id",
    "name",
    "network.peer.address",
    "network.peer.port",
    "network.protocol.version",
    "parent_span_id",
    "picket.actor",
    "picket.alert",
    "picket.audit_policies",
    "picket.authorizer",
    "picket.authorizer.outcome",
    "picket.cause",
    "picket.certificate.serial",
    "picket.chain.position",
    "picket.chain.previous",
    "picket.clock.offset_ms",
    "picket.csr.surplus",
    "picket.decision",
    "picket.decision.id",
    "picket.decision.nearest_miss",
    "picket.decision.reason",
    "picket.decision.stage",
    "picket.destination",
    "picket.destination.port",
    "picket.detail",
    "picket.direction",
    "picket.dry_run",
    "picket.durability",
    "picket.emitter",
    "picket.ending",
    "picket.ending.generation",
    "picket.ending.nearest_miss",
    "picket.ending.policy",
    "picket.ending.policy.source",
    "picket.ending.reason",
    "picket.event",
    "picket.gap.boot",
    "picket.gap.count",
    "picket.gap.first",
    "picket.gap.lane",
    "picket.gap.last",
    "picket.gap.reason",
    "picket.join_token",
    "picket.jwt.audiences",
    "picket.jwt.issuer",
    "picket.jwt.kid",
    "picket.jwt.presenter",
    "picket.jwt.subject",
    "picket.jwt.subject_hash",
    "picket.jwt.subject_key",
    "picket.kind",
    "picket.labels",
    "picket.lane",
    "picket.outcome",
    "picket.peer.not_after",
    "picket.peer.serial",
    "picket.policy",
    "picket.policy.compared",
    "picket.policy.generation",
    "picket.policy.rule",
    "picket.policy.source",
    "picket.policy.token_rules",
    "picket.response",
    "picket.response.action",
    "picket.revocation",
    "picket.revocation.kind",
    "picket.sequence",
    "picket.source",
    "picket.subject",
    "picket.time.authorizer_us",
    "picket.time.policy_us",
    "picket.time.upstream_us",
    "server.address",
    "server.port",
    "service.instance.id",
    "service.name",
    "service.namespace",
    "service.version",
    "span_id",
    "status.error",
    "time",
    "tls.cipher",
    "tls.curve",
    "tls.protocol.version",
    "trace_id",
    "url.path",
    "url.query",
    "url.scheme",
];

/// Whether an event can have the field.
pub fn is_known(name: &str) -> bool {
    KNOWN.binary_search(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(KNOWN.is_sorted() && is_known("picket.source") && !is_known("picket.sauce"));
    }
}
