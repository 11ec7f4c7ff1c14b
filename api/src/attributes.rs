//! The names on an audit span.
//!
//! OpenTelemetry's stable names where it has them (semantic conventions for HTTP, network and TLS),
//! ours under `picket.` for the rest. They are an interface that users write queries and rules
//! against: names are added, never changed. `docs/audit-attributes.md` describes each.

/// Every name of this file: the file is its own list, so that none can be forgotten.
pub fn all() -> impl Iterator<Item = &'static str> {
    let lines = include_str!("attributes.rs").lines();
    let values =
        lines.filter_map(|line| line.strip_prefix("pub const ")?.split_once(": &str = \""));
    values.filter_map(|(_, rest)| rest.strip_suffix("\";"))
}

/// The instrumentation scope of every audit span.
pub const SCOPE: &str = "picket.proxy";

// === resource ===

/// The workload's service name, never the proxy's.
pub const SERVICE_NAME: &str = "service.name";
/// The workload's namespace.
pub const SERVICE_NAMESPACE: &str = "service.namespace";
/// The workload's version, from its configuration or its `version` label.
pub const SERVICE_VERSION: &str = "service.version";
/// The boot of the emitting proxy, a UUID chosen at each start.
pub const SERVICE_INSTANCE_ID: &str = "service.instance.id";
/// The SPIFFE ID of the emitting proxy.
pub const EMITTER: &str = "picket.emitter";
/// The workload's labels, by which policies select it, as `key=value`.
pub const LABELS: &str = "picket.labels";

// === the record ===

/// What the record is about: `request`, `connection` or `event` (an act of the control plane).
pub const KIND: &str = "picket.kind";
/// `inbound` (SERVER span) or `outbound` (CLIENT span).
pub const DIRECTION: &str = "picket.direction";
/// The lane of the emitter's spool: the number of the worker.
pub const LANE: &str = "picket.lane";
/// The record's number within its emitter's boot and lane, from 1, without gaps.
pub const SEQUENCE: &str = "picket.sequence";
/// The record's place in its lane's hash chain, from 1: the order in which records were completed.
pub const CHAIN_POSITION: &str = "picket.chain.position";
/// SHA-256 of the span before it in the chain, hexadecimal; before the first one the lane's seed.
pub const CHAIN_PREVIOUS: &str = "picket.chain.previous";
/// How the record was kept, if not in the usual way: `memory` or `committed`.
pub const DURABILITY: &str = "picket.durability";
/// How it ended; see `docs/audit-attributes.md`.
pub const ENDING: &str = "picket.ending";

/// Why there was no more right to it, as a short stable code.
pub const ENDING_REASON: &str = "picket.ending.reason";
/// The policy that says so, as `namespace/name`.
pub const ENDING_POLICY: &str = "picket.ending.policy";
/// Where the rule of it stands, as `file:line`.
pub const ENDING_POLICY_SOURCE: &str = "picket.ending.policy.source";
/// The generation of the policy set in force at the end.
pub const ENDING_GENERATION: &str = "picket.ending.generation";
/// The rule that came closest at the end, and what it lacked.
pub const ENDING_NEAREST_MISS: &str = "picket.ending.nearest_miss";

// === who ===

/// SPIFFE ID of the caller; absent if none was proven.
pub const SOURCE: &str = "picket.source";
/// SPIFFE ID of the called workload.
pub const DESTINATION: &str = "picket.destination";
/// The port of the called service, as rules see it.
pub const DESTINATION_PORT: &str = "picket.destination.port";
/// Serial number of the peer's certificate.
pub const PEER_SERIAL: &str = "picket.peer.serial";
/// End of the peer's certificate, in seconds since 1970.
pub const PEER_NOT_AFTER: &str = "picket.peer.not_after";

// === the decision ===

/// `allow` or `deny`.
pub const DECISION: &str = "picket.decision";
/// Names the decision to the caller, in the header `x-picket-decision-id`.
pub const DECISION_ID: &str = "picket.decision.id";
/// The stage that decided: `connection`, `request`, `peer_authentication`, `request_authentication`,
/// `custom`, `deny`, `allow`, `default` or `outbound`.
pub const STAGE: &str = "picket.decision.stage";
/// A short stable code of why.
pub const REASON: &str = "picket.decision.reason";
/// The policy that decided, as `namespace/name`.
pub const POLICY: &str = "picket.policy";
/// The index of the deciding rule in its policy, from 0.
pub const RULE: &str = "picket.policy.rule";
/// Where the deciding rule stands, as `file:line`.
pub const POLICY_SOURCE: &str = "picket.policy.source";
/// The generation of the policy set in force.
pub const GENERATION: &str = "picket.policy.generation";
/// What rules compared that is not recorded, and what came of it.
pub const COMPARED: &str = "picket.policy.compared";
/// Names the RequestAuthentications that the token was, or would have been, checked by.
pub const TOKEN_RULES: &str = "picket.policy.token_rules";
/// On a default deny, the rule that came closest and what it lacked.
pub const NEAREST_MISS: &str = "picket.decision.nearest_miss";
/// Dry-run policies that would have decided otherwise, as `namespace/name=deny`.
pub const DRY_RUN: &str = "picket.dry_run";
/// Policies of action AUDIT that matched, as `namespace/name`.
pub const AUDIT_POLICIES: &str = "picket.audit_policies";
/// The external authorizer that a CUSTOM policy asked.
pub const AUTHORIZER: &str = "picket.authorizer";
/// What came of asking it: `allowed`, `denied`, or what failed.
pub const AUTHORIZER_OUTCOME: &str = "picket.authorizer.outcome";

/// Names the revocation that refused it, or that an act was about.
pub const REVOCATION: &str = "picket.revocation";

// === the token ===

/// The verified token's issuer.
pub const JWT_ISSUER: &str = "picket.jwt.issuer";
/// The key that verified it.
pub const JWT_KEY_ID: &str = "picket.jwt.kid";
/// Whom it is for.
pub const JWT_AUDIENCES: &str = "picket.jwt.audiences";
/// Whom it was issued to.
pub const JWT_PRESENTER: &str = "picket.jwt.presenter";
/// A keyed hash of its subject.
pub const JWT_SUBJECT_HASH: &str = "picket.jwt.subject_hash";
/// Names the key of that hash.
pub const JWT_SUBJECT_KEY: &str = "picket.jwt.subject_key";
/// Its subject in clear, where that is switched on.
pub const JWT_SUBJECT: &str = "picket.jwt.subject";

// === the connection ===

/// `1.3` or `1.2`.
pub const TLS_VERSION: &str = "tls.protocol.version";
/// The cipher suite.
pub const TLS_CIPHER: &str = "tls.cipher";
/// The key exchange group.
pub const TLS_CURVE: &str = "tls.curve";
/// Address of the other end of the socket.
pub const NETWORK_PEER_ADDRESS: &str = "network.peer.address";
/// Port of the other end of the socket.
pub const NETWORK_PEER_PORT: &str = "network.peer.port";
/// Address of the original client, as trusted hops vouch for it, if it is not the other end of the socket.
pub const CLIENT_ADDRESS: &str = "client.address";
/// `1.1` or `2`.
pub const NETWORK_PROTOCOL_VERSION: &str = "network.protocol.version";

// === the request ===

/// The method.
pub const METHOD: &str = "http.request.method";
/// The path pattern of the rule that matched; of low cardinality.
pub const ROUTE: &str = "http.route";
/// The path as it was decided on and forwarded, without query.
pub const URL_PATH: &str = "url.path";
/// The query with every value replaced by `REDACTED`.
pub const URL_QUERY: &str = "url.query";
/// `http` or `https`.
pub const URL_SCHEME: &str = "url.scheme";
/// The host that the client addressed.
pub const SERVER_ADDRESS: &str = "server.address";
/// The port that the client addressed.
pub const SERVER_PORT: &str = "server.port";
/// The status that was answered.
pub const STATUS: &str = "http.response.status_code";
/// Bytes of the request's body that were forwarded.
pub const REQUEST_BODY_SIZE: &str = "http.request.body.size";
/// Bytes of the response's body that were forwarded.
pub const RESPONSE_BODY_SIZE: &str = "http.response.body.size";
/// What kind of error, if there was one.
pub const ERROR_TYPE: &str = "error.type";

// === acts of the control plane ===

/// What happened, such as `enrollment.join`; see `docs/audit-attributes.md`.
pub const EVENT: &str = "picket.event";
/// Who caused it: a SPIFFE ID, or `unix:<uid>` for the local socket.
pub const ACTOR: &str = "picket.actor";
/// `granted` or `refused`.
pub const OUTCOME: &str = "picket.outcome";
/// What it was done to.
pub const SUBJECT: &str = "picket.subject";
/// What a signing request asked for beyond its grant, and did not get.
pub const SURPLUS: &str = "picket.csr.surplus";
/// Of `clock.offset`: the proxy's clock minus the control plane's, in milliseconds.
pub const CLOCK_OFFSET: &str = "picket.clock.offset_ms";
/// Serial number of the certificate that was issued, or of the one that was not renewed.
pub const CERTIFICATE_SERIAL: &str = "picket.certificate.serial";
/// What a revocation is about: `jti`, `sub`, `kid`, `issuer`, `identity` or `serial`.
pub const REVOCATION_KIND: &str = "picket.revocation.kind";
/// Names a join token by the first digits of its hash.
pub const JOIN_TOKEN: &str = "picket.join_token";
/// More about it in words, such as the filter of a read or the error of a refusal.
pub const DETAIL: &str = "picket.detail";

/// Names a response.
pub const RESPONSE: &str = "picket.response";
/// What a response does: `quarantine`, `webhook`, `revoke` or `limit`.
pub const RESPONSE_ACTION: &str = "picket.response.action";
/// Names the alert that it is about.
pub const ALERT: &str = "picket.alert";
/// Ids of the records that caused it.
pub const CAUSE: &str = "picket.cause";

/// Of an event `picket.audit.gap`: why records are missing.
pub const GAP_REASON: &str = "picket.gap.reason";
/// How many.
pub const GAP_COUNT: &str = "picket.gap.count";
/// Of which boot.
pub const GAP_BOOT: &str = "picket.gap.boot";
/// Of which lane.
pub const GAP_LANE: &str = "picket.gap.lane";
/// The first missing number, if it is known.
pub const GAP_FIRST: &str = "picket.gap.first";
/// The last missing number, if it is known.
pub const GAP_LAST: &str = "picket.gap.last";

// === durations ===

/// From the request's head to its decision, in microseconds.
pub const POLICY_TIME: &str = "picket.time.policy_us";
/// How much of it an external authorizer took, in microseconds.
pub const AUTHORIZER_TIME: &str = "picket.time.authorizer_us";
/// From forwarding the request to the head of its response, in microseconds.
pub const UPSTREAM_TIME: &str = "picket.time.upstream_us";

// === events ===

/// The span event of a denial.
pub const EVENT_DENIED: &str = "picket.authz.denied";
/// The span event of a dry-run hit.
pub const EVENT_DRY_RUN: &str = "picket.authz.dry_run";
/// There was no more right to what was open.
pub const EVENT_ENDED: &str = "picket.authz.ended";
