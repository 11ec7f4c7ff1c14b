//! What a record says: facts gathered on a request's way, and how they become attributes.
//!
//! Texts that a client chose are cut to a length. Never here: query values, cookies, tokens, bodies.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderValue, Method, StatusCode, Uri, Version};
use picket_api::attributes as names;
use picket_policy::Decision;

use super::packed;
use super::preamble::{Opening, Preamble};
use super::recorder::Stamp;
use super::span::{SpanKind, SpanPart};
use super::text::{cut, is_known, redacted};
use super::{micros, nanos};
use crate::authorizer::Asked;
use crate::config::Durability;
use crate::connection::TlsFacts;
use crate::error::RequestError;
use crate::peer::Peer;
use crate::recheck::Lost;
use crate::subjects::Recorded;
use crate::trace::SpanContext;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Connection,
}

/// Towards the service, or away from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What is known of the verified token.
#[derive(Clone)]
pub(crate) struct TokenFacts {
    pub(crate) issuer: Box<str>,
    pub(crate) key_id: Box<str>,
    pub(crate) subject: Recorded,
    pub(crate) audiences: Vec<Box<str>>,
    pub(crate) presenter: Box<str>,
}

/// Why a request or connection was not served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    /// Where on its way, as records name it.
    pub(crate) stage: &'static str,
    pub(crate) code: &'static str,
}

/// What is known so far.
pub(crate) struct Facts {
    pub(crate) kind: Kind,
    pub(crate) direction: Direction,
    pub(crate) context: SpanContext,
    start: u64,
    pub(crate) clock: Instant,
    pub(crate) decided_after: Option<Duration>,

    pub(crate) remote: SocketAddr,
    pub(crate) tls: Option<TlsFacts>,
    pub(crate) peer: Option<Arc<Peer>>,
    /// SPIFFE ID of the caller, if it is not the peer's.
    pub(crate) source: Option<Arc<str>>,
    /// SPIFFE ID of the called workload.
    pub(crate) destination: Option<Arc<str>>,
    /// The port of the service, on the way in.
    pub(crate) port: Option<u16>,
    /// The original client, if it is not at the other end of the socket.
    pub(crate) client: Option<IpAddr>,

    pub(crate) method: Option<Method>,
    pub(crate) uri: Uri,
    pub(crate) host: Option<HeaderValue>,
    pub(crate) version: Version,
    /// The normalised path, where it differs from the one sent.
    pub(crate) path: Option<Box<str>>,

    pub(crate) generation: Option<Arc<str>>,
    pub(crate) token_rules: Option<Arc<str>>,
    /// What rules compared that is not recorded.
    pub(crate) compared: Vec<Arc<str>>,
    pub(crate) decision: Option<Decision>,
    /// Set if an external authorizer was asked.
    pub(crate) authorizer: Option<Asked>,
    /// Set on the way out, where no policy decides: the destination is a service of the mesh.
    pub(crate) destination_known: bool,
    pub(crate) token: Option<TokenFacts>,
    /// Names the revocation that refuses it.
    pub(crate) revocation: Option<Arc<str>>,

    pub(crate) status: Option<StatusCode>,
    pub(crate) failed: Option<Failure>,

    /// What the records of its connection begin with, if it was written once for all of them.
    pub(crate) preamble: Option<Rc<Preamble>>,
}

impl Facts {
    pub(crate) fn new(
        kind: Kind,
        direction: Direction,
        context: SpanContext,
        remote: SocketAddr,
    ) -> Self {
        Self {
            kind,
            direction,
            context,
            start: nanos(SystemTime::now()),
            clock: Instant::now(),
            decided_after: None,
            remote,
            tls: None,
            peer: None,
            source: None,
            destination: None,
            port: None,
            client: None,
            method: None,
            uri: Uri::default(),
            host: None,
            version: Version::HTTP_11,
            path: None,
            generation: None,
            token_rules: None,
            compared: Vec::new(),
            decision: None,
            authorizer: None,
            destination_known: false,
            token: None,
            revocation: None,
            status: None,
            failed: None,
            preamble: None,
        }
    }

    /// The present, by the clock that the record began on: it never runs backwards.
    pub(crate) fn now(&self) -> u64 {
        self.at(self.clock.elapsed())
    }

    /// The moment so long after the record began, by the same clock.
    pub(super) fn at(&self, elapsed: Duration) -> u64 {
        self.start.saturating_add(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }

    /// `allow`, `deny`, or nothing while it is undecided.
    pub(crate) fn decision_word(&self) -> &'static str {
        match (&self.decision, self.failed) {
            (Some(decision), _) => decision.verdict.as_str(),
            (None, _) if self.destination_known => "allow",
            (None, Some(_)) => "deny",
            (None, None) => "",
        }
    }

    /// What is the same for every request of a connection, the side of the call included.
    pub(super) fn write_connection(&self, part: &mut SpanPart<'_>, lane: u32) {
        part.kind(match self.direction {
            Direction::Inbound => SpanKind::Server,
            Direction::Outbound => SpanKind::Client,
        });
        part.text(
            names::KIND,
            match self.kind {
                Kind::Request => "request",
                Kind::Connection => "connection",
            },
        );
        part.text(names::DIRECTION, self.direction.as_str());
        part.int(names::LANE, i64::from(lane));
        self.write_ends(part);
        if self.kind == Kind::Request {
            part.text(names::URL_SCHEME, if self.tls.is_some() { "https" } else { "http" });
        }
    }

    /// The first part, without what its opening has.
    pub(super) fn write_begin(
        &self,
        part: &mut SpanPart<'_>,
        stamp: &Stamp,
        opening: Option<&Opening>,
    ) {
        if opening.is_none() {
            self.write_connection(part, stamp.lane);
        }
        if !opening.is_some_and(Opening::has_kind) {
            self.write_kind(part);
        }
        let context = &self.context;
        part.identity(&context.trace_id, &context.span_id, context.parent.as_ref());
        part.flags(context.flags);
        for claim in &context.links {
            part.link(&claim.trace_id, &claim.span_id);
        }
        part.start(self.start);
        // A record that is held in memory gets its number at its end.
        if let Some(sequence) = stamp.sequence {
            part.short_int(packed::SEQUENCE, sequence.cast_signed());
        }
        if stamp.durability != Durability::Spooled {
            part.text(names::DURABILITY, stamp.durability.as_str());
        }
        if let Some(client) = self.client {
            part.text(names::CLIENT_ADDRESS, &client.to_string());
        }
        self.write_target(part);
        if self.destination_known || self.decision.is_some() {
            part.short_hex(packed::DECISION_ID, &self.context.span_id);
        }
        if let Some(token) = &self.token {
            part.text(names::JWT_ISSUER, &token.issuer);
            part.text(names::JWT_KEY_ID, &token.key_id);
            part.texts(names::JWT_AUDIENCES, &token.audiences);
            part.text(names::JWT_PRESENTER, &token.presenter);
            match &token.subject {
                Recorded::Hash { hash, key } => {
                    part.text(names::JWT_SUBJECT_HASH, hash);
                    part.text(names::JWT_SUBJECT_KEY, key);
                }
                Recorded::Clear(subject) => part.text(names::JWT_SUBJECT, cut(subject)),
                Recorded::None => {}
            }
        }
        if let Some(decided_after) = self.decided_after {
            part.short_int(packed::POLICY_TIME, micros(decided_after));
        }
        if let Some(asked) = &self.authorizer {
            part.text(names::AUTHORIZER, asked.authorizer.name());
            part.text(names::AUTHORIZER_OUTCOME, asked.outcome);
            part.int(names::AUTHORIZER_TIME, micros(asked.took));
        }
    }

    /// OpenTelemetry: `METHOD /route/template` where a template is known, else `METHOD`.
    fn write_name(&self, part: &mut SpanPart<'_>) {
        let Some(method) = &self.method else { return part.name(&["connection"]) };
        let method = if is_known(method) { method.as_str() } else { "HTTP" };
        match self.decision.as_ref().and_then(|decision| decision.route.as_deref()) {
            Some(route) => part.name(&[method, " ", route]),
            None => part.name(&[method]),
        }
    }

    fn write_ends(&self, part: &mut SpanPart<'_>) {
        let source = self.source.as_deref().or(self.peer.as_ref().map(|peer| &*peer.id));
        part.text(names::SOURCE, source.unwrap_or_default());
        part.text(names::DESTINATION, self.destination.as_deref().unwrap_or_default());
        if let Some(port) = self.port {
            part.int(names::DESTINATION_PORT, i64::from(port));
        }
        part.text(names::NETWORK_PEER_ADDRESS, &self.remote.ip().to_string());
        part.int(names::NETWORK_PEER_PORT, i64::from(self.remote.port()));
        self.write_tls(part);
        if let Some(peer) = &self.peer {
            part.text(names::PEER_SERIAL, &peer.serial);
            part.int(names::PEER_NOT_AFTER, peer.not_after_unix());
        }
    }

    /// What the handshake agreed on; on the way out it is known only once there is an answer.
    pub(super) fn write_tls(&self, part: &mut SpanPart<'_>) {
        if let Some(tls) = &self.tls {
            part.text(names::TLS_VERSION, tls.version);
            part.text(names::TLS_CIPHER, tls.cipher);
            part.text(names::TLS_CURVE, tls.group);
        }
    }

    /// What is the same for every request of a kind: how it was asked, and what was decided.
    pub(super) fn write_kind(&self, part: &mut SpanPart<'_>) {
        self.write_name(part);
        self.write_request(part);
        self.write_decision(part);
    }

    fn write_target(&self, part: &mut SpanPart<'_>) {
        if self.method.is_none() {
            return;
        }
        part.short_text(packed::URL_PATH, cut(self.path.as_deref().unwrap_or(self.uri.path())));
        if let Some(query) = self.uri.query() {
            part.text(names::URL_QUERY, &redacted(query));
        }
    }

    fn write_request(&self, part: &mut SpanPart<'_>) {
        let Some(method) = &self.method else { return };
        part.text(names::METHOD, cut(method.as_str()));
        let host = self.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
        // A user's name and password may stand before it, which is refused.
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse::<u16>().ok()),
            _ => (host, None),
        };
        part.text(names::SERVER_ADDRESS, cut(name));
        if let Some(port) = port {
            part.int(names::SERVER_PORT, i64::from(port));
        }
        let version = match self.version {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        };
        part.text(names::NETWORK_PROTOCOL_VERSION, version);
    }

    fn write_decision(&self, part: &mut SpanPart<'_>) {
        if let Some(generation) = &self.generation {
            part.text(names::GENERATION, generation);
        }
        if let Some(rules) = &self.token_rules {
            part.text(names::TOKEN_RULES, rules);
        }
        part.texts(names::COMPARED, &self.compared);
        if self.destination_known {
            part.text(names::DECISION, "allow");
            part.text(names::STAGE, "outbound");
            part.text(names::REASON, "destination_known");
        }
        let Some(decision) = &self.decision else { return };
        part.text(names::DECISION, decision.verdict.as_str());
        part.text(names::STAGE, decision.stage.as_str());
        part.text(names::REASON, decision.code.as_str());
        part.text(names::ROUTE, decision.route.as_deref().unwrap_or_default());
        if let Some(by) = &decision.by {
            part.text(names::POLICY, by.policy());
            if let Some(rule) = by.rule() {
                part.int(names::RULE, i64::from(rule));
            }
            part.text(names::POLICY_SOURCE, &format!("{}:{}", by.file(), by.line()));
        }
        if !decision.audit.is_empty() {
            let policies: Vec<&str> = decision.audit.iter().map(|by| by.policy()).collect();
            part.texts(names::AUDIT_POLICIES, &policies);
        }
        if !decision.dry_run.is_empty() {
            let hits: Vec<String> = decision
                .dry_run
                .iter()
                .map(|hit| format!("{}={}", hit.policy.policy(), hit.would.as_str()))
                .collect();
            for hit in &hits {
                part.event(self.now(), names::EVENT_DRY_RUN, &[(names::DRY_RUN, hit)]);
            }
            part.texts(names::DRY_RUN, &hits);
        }
    }

    /// What the upstream answered, so long after the record began.
    pub(super) fn write_answer(
        &self,
        part: &mut SpanPart<'_>,
        status: StatusCode,
        after: Duration,
    ) {
        if self.direction == Direction::Outbound {
            self.write_tls(part);
        }
        let upstream = after.saturating_sub(self.decided_after.unwrap_or_default());
        part.short_int(packed::STATUS, i64::from(status.as_u16()));
        part.short_int(packed::UPSTREAM_TIME, micros(upstream));
        if status.is_server_error() {
            part.text(names::ERROR_TYPE, status.as_str());
            part.error("");
        }
    }

    /// A refusal, to be written after the facts it was made on.
    pub(super) fn write_refusal(&self, part: &mut SpanPart<'_>, error: &RequestError, now: u64) {
        let id = self.context.decision_id();
        let (mut policy, mut source, mut miss) = (String::new(), String::new(), "");
        if let RequestError::Denied(denial) = error {
            // The decision itself is among the facts.
            miss = cut(&denial.nearest_miss);
            if let Some(by) = &denial.decision.by {
                policy = by.policy().to_owned();
                source = format!("{}:{}", by.file(), by.line());
            }
            part.text(names::NEAREST_MISS, miss);
        } else {
            part.text(names::DECISION, "deny");
            part.text(names::DECISION_ID, &id);
            part.text(names::STAGE, error.stage());
            part.text(names::REASON, error.code());
            part.text(names::REVOCATION, self.revocation.as_deref().unwrap_or_default());
            if let RequestError::Token(token) = error
                && let Some(by) = &token.by
            {
                policy = by.policy().to_owned();
                source = format!("{}:{}", by.file(), by.line());
                part.text(names::POLICY, &policy);
                part.text(names::POLICY_SOURCE, &source);
            }
        }
        part.int(names::STATUS, i64::from(error.status().as_u16()));
        part.text(names::ERROR_TYPE, error.code());
        let attributes = [
            (names::REASON, error.code()),
            (names::POLICY, &policy),
            (names::POLICY_SOURCE, &source),
            (names::NEAREST_MISS, miss),
            (names::DECISION_ID, &id),
        ];
        part.event(now, names::EVENT_DENIED, &attributes);
        part.error(&match policy.as_str() {
            "" => format!("denied: {}", error.code()),
            policy => format!("denied: {policy}"),
        });
    }

    /// The status of the proxy's own answer.
    pub(super) fn write_status(&self, part: &mut SpanPart<'_>, error: &RequestError) {
        if self.kind == Kind::Request {
            part.int(names::STATUS, i64::from(error.status().as_u16()));
        }
    }

    /// A failure after the request was allowed.
    pub(super) fn write_failure(&self, part: &mut SpanPart<'_>, error: &RequestError) {
        self.write_status(part, error);
        part.text(names::ERROR_TYPE, error.code());
        part.error(error.code());
    }

    /// A failure after the answer's head was passed on.
    pub(super) fn write_abort(&self, part: &mut SpanPart<'_>, code: &str) {
        // An error status was written with the answer's head: a key stands in a span once.
        if !self.status.is_some_and(|status| status.is_server_error()) {
            part.text(names::ERROR_TYPE, code);
        }
        part.error(code);
    }

    /// Why there was no more right to it, after the ending that says so. The decision stays what it was.
    pub(super) fn write_lost(&self, part: &mut SpanPart<'_>, lost: &Lost, now: u64) {
        let (mut policy, mut source) = ("", String::new());
        if let Some(by) = &lost.by {
            policy = by.policy();
            source = format!("{}:{}", by.file(), by.line());
        }
        let attributes = [
            (names::ENDING_REASON, lost.code),
            (names::ENDING_POLICY, policy),
            (names::ENDING_POLICY_SOURCE, &source),
            (names::ENDING_GENERATION, &lost.generation),
            (names::ENDING_NEAREST_MISS, cut(&lost.nearest_miss)),
        ];
        for (name, value) in attributes {
            part.text(name, value);
        }
        part.text(names::REVOCATION, lost.revocation.as_deref().unwrap_or_default());
        part.event(now, names::EVENT_ENDED, &attributes);
        self.write_abort(part, lost.ending.as_str());
    }

    pub(super) fn write_connection_refusal(
        &self,
        part: &mut SpanPart<'_>,
        code: &str,
        message: &str,
        now: u64,
    ) {
        let id = self.context.decision_id();
        if self.decision.is_none() {
            part.text(names::DECISION, "deny");
            part.text(names::DECISION_ID, &id);
            part.text(names::STAGE, "connection");
            part.text(names::REASON, code);
        }
        part.text(names::ERROR_TYPE, code);
        part.event(now, names::EVENT_DENIED, &[(names::REASON, code), ("message", cut(message))]);
        part.error(&format!("denied: {code}"));
    }
}
