//! The control plane's own acts, as audit records of the very form that proxies write.
//!
//! Each act becomes one INTERNAL span with `picket.kind = event`, numbered without gaps under the
//! control plane's own identity and boot, in the same transaction as the act itself. Whatever was
//! granted is therefore on the record before the answer leaves, and what was refused is recorded too.
//! Tokens and keys never appear: an act names a token by the first digits of its hash.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span, status};
use picket_api::attributes as names;
use picket_certs::SpiffeId;
use prost::Message as _;

use crate::clock;
use crate::record::Facts;
use crate::store::records::{self, Batch, NewRecord};
use crate::store::{Store, StoreError, Writing};

/// The lane of the control plane's own records.
const LANE: i64 = 0;

/// What can happen. The names are an interface: rules and searches use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The process began to serve.
    ControlStart,
    /// The process was asked to end.
    ControlStop,
    /// A workload asked for its first certificate.
    Join,
    /// A workload asked for a further certificate.
    Renew,
    /// Somebody asked for a join token.
    CreateJoinToken,
    /// Somebody asked for an operator's certificate.
    CreateOperator,
    /// A policy set came into force, or was refused.
    LoadPolicies,
    /// An operator handed in a policy set.
    ApplyPolicies,
    /// A proxy took up a policy set.
    AcceptPolicies,
    /// A proxy's clock is off, or right again.
    ClockOffset,
    /// A proxy refused a policy set.
    RefusePolicies,
    /// A workload announced what it may not.
    Announce,
    /// An emitter sent what it may not.
    Ingest,
    /// Somebody revoked tokens or certificates.
    Revoke,
    /// Somebody lifted a revocation.
    Unrevoke,
    /// Subjects are hashed with a new key.
    RotateSubjectKey,
    /// Somebody asked how records name a subject.
    HashSubject,
    /// Somebody read audit records.
    ReadAudit,
    /// Records of an emitter are missing.
    Gap,
    /// Nothing is heard of an emitter.
    Silent,
    /// Somebody has changed what was recorded, or says two things at once.
    Tamper,
    /// Somebody erased records.
    Erase,
    /// Old records were removed, or should have been.
    Prune,
    /// Detection rules were put to work, or refused.
    LoadRules,
    /// The detector failed, and has begun again or will.
    Detect,
    /// A sink of alerts keeps failing.
    Notify,
    /// A rule is over its budget of alerts.
    DemoteRule,
    /// It is within it again.
    PromoteRule,
    /// Somebody has seen to an alert.
    Acknowledge,
    /// Somebody had alerts silenced.
    Silence,
    /// Somebody lifted a silence.
    Unsilence,
    /// Somebody had the sinks tested.
    TestAlerts,
    /// Something is suggested about an alert.
    SuggestResponse,
    /// A rule did something about its alert.
    Respond,
    /// Something must not be done about an alert.
    RefuseResponse,
    /// A webhook was called, or cannot be.
    CallWebhook,
    /// Somebody approved what was suggested.
    ApproveResponse,
    /// What was done was undone.
    RevertResponse,
    /// Nothing more is to be done about alerts.
    HaltResponses,
    /// Something may be done again.
    ResumeResponses,
    /// Somebody asked for what their role does not permit.
    Request,
}

impl Event {
    /// As it is recorded.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ControlStart => "control.start",
            Self::ControlStop => "control.stop",
            Self::Join => "enrollment.join",
            Self::Renew => "enrollment.renew",
            Self::CreateJoinToken => "join_token.create",
            Self::CreateOperator => "operator.create",
            Self::LoadPolicies => "policy.load",
            Self::ApplyPolicies => "policy.apply",
            Self::AcceptPolicies => "policy.ack",
            Self::RefusePolicies => "policy.nack",
            Self::ClockOffset => "clock.offset",
            Self::Announce => "registry.announce",
            Self::Ingest => "audit.ingest",
            Self::Revoke => "revocation.add",
            Self::Unrevoke => "revocation.remove",
            Self::RotateSubjectKey => "subject_key.rotate",
            Self::HashSubject => "audit.subject_hash",
            Self::ReadAudit => "audit.read",
            Self::Prune => "audit.prune",
            Self::Gap => "picket.audit.gap",
            Self::Silent => "picket.audit.silent",
            Self::Tamper => "picket.audit.tamper",
            Self::Erase => "audit.erase",
            Self::LoadRules => "rules.load",
            Self::Detect => "detector.fail",
            Self::Notify => "notify.fail",
            Self::DemoteRule => "rule.demote",
            Self::PromoteRule => "rule.promote",
            Self::Acknowledge => "alert.acknowledge",
            Self::Silence => "alert.silence",
            Self::Unsilence => "alert.unsilence",
            Self::TestAlerts => "alert.test",
            Self::SuggestResponse => "respond.suggest",
            Self::Respond => "respond.act",
            Self::RefuseResponse => "respond.refuse",
            Self::CallWebhook => "respond.call",
            Self::ApproveResponse => "respond.approve",
            Self::RevertResponse => "respond.revert",
            Self::HaltResponses => "respond.halt",
            Self::ResumeResponses => "respond.resume",
            Self::Request => "operator.request",
        }
    }
}

/// One act, to be recorded.
#[derive(Debug, Clone)]
pub(crate) struct Act {
    at: SystemTime,
    event: Event,
    refused: Option<&'static str>,
    facts: Vec<(&'static str, Any)>,
}

impl Act {
    /// An act that was granted, or simply happened.
    pub(crate) fn granted(event: Event, at: SystemTime) -> Self {
        Self { at, event, refused: None, facts: Vec::new() }
    }

    /// An act that was refused; `reason` is a short stable code.
    pub(crate) fn refused(event: Event, at: SystemTime, reason: &'static str) -> Self {
        Self { at, event, refused: Some(reason), facts: Vec::new() }
    }

    /// Who caused it.
    pub(crate) fn actor(self, actor: &str) -> Self {
        self.with(names::ACTOR, actor)
    }

    /// What it was done to.
    pub(crate) fn subject(self, subject: &str) -> Self {
        self.with(names::SUBJECT, subject)
    }

    /// A further fact.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.facts.push((name, Any::StringValue(value.into())));
        self
    }

    /// A further fact that is a number.
    pub(crate) fn with_number(mut self, name: &'static str, value: i64) -> Self {
        self.facts.push((name, Any::IntValue(value)));
        self
    }

    /// A further fact of several values; none if there are none.
    pub(crate) fn with_list(mut self, name: &'static str, values: &[String]) -> Self {
        if !values.is_empty() {
            let values =
                values.iter().map(|v| AnyValue { value: Some(Any::StringValue(v.clone())) });
            self.facts.push((name, Any::ArrayValue(ArrayValue { values: values.collect() })));
        }
        self
    }

    /// Where the other end of the connection is.
    pub(crate) fn from(mut self, address: Option<SocketAddr>) -> Self {
        if let Some(address) = address {
            let ip = Any::StringValue(address.ip().to_string());
            self.facts.push((names::NETWORK_PEER_ADDRESS, ip));
            self.facts.push((names::NETWORK_PEER_PORT, Any::IntValue(address.port().into())));
        }
        self
    }

    fn span(&self, sequence: i64) -> Result<Span, StoreError> {
        let at = clock::nanoseconds(self.at);
        let outcome = if self.refused.is_some() { "refused" } else { "granted" };
        let mut attributes = vec![
            text(names::KIND, "event"),
            attribute(names::LANE, Any::IntValue(LANE)),
            attribute(names::SEQUENCE, Any::IntValue(sequence)),
            text(names::EVENT, self.event.name()),
            text(names::OUTCOME, outcome),
        ];
        attributes.extend(self.refused.map(|reason| text(names::REASON, reason)));
        attributes.extend(self.facts.iter().map(|(name, value)| attribute(name, value.clone())));
        let status = self.refused.map(|reason| Status {
            message: reason.to_owned(),
            code: status::StatusCode::Error.into(),
        });
        Ok(Span {
            trace_id: random::<16>()?,
            span_id: random::<8>()?,
            name: self.event.name().to_owned(),
            kind: span::SpanKind::Internal.into(),
            start_time_unix_nano: at,
            end_time_unix_nano: at,
            attributes,
            status,
            ..Span::default()
        })
    }
}

/// Where acts are entered; clones share it.
#[derive(Clone)]
pub(crate) struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    spiffe_id: String,
    boot: String,
    resource: Bytes,
}

impl Journal {
    /// A journal under a new boot of the control plane.
    pub(crate) fn new(store: Store, own: &SpiffeId, boot: String) -> Self {
        let attributes = vec![
            text(names::SERVICE_NAME, crate::SERVICE_NAME),
            text(names::SERVICE_NAMESPACE, own.namespace()),
            text(names::SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
            text(names::SERVICE_INSTANCE_ID, &boot),
            text(names::EMITTER, own.as_str()),
        ];
        let resource = Resource { attributes, ..Resource::default() }.encode_to_vec().into();
        let spiffe_id = own.as_str().to_owned();
        Self { shared: Arc::new(Shared { store, spiffe_id, boot, resource }) }
    }

    /// Enters an act as part of a job of the writer, so that both stand or fall together.
    pub(crate) fn enter(&self, writing: &Writing<'_>, act: &Act) -> Result<(), StoreError> {
        let Shared { spiffe_id, boot, resource, .. } = &*self.shared;
        let sequence = records::next_sequence(writing, spiffe_id, boot, LANE)?;
        let span = act.span(sequence)?;
        let bytes = Bytes::from(span.encode_to_vec());
        let mut facts = Facts::of(span).map_err(|_| StoreError::Unreadable("an act"))?;
        // What we find missing is not declared lost by that.
        facts.gap = None;
        let batch = Batch {
            spiffe_id: spiffe_id.clone(),
            boot: boot.clone(),
            resource: resource.clone(),
            records: vec![NewRecord { facts, bytes }],
            slow_us: None,
        };
        match records::insert(writing, &batch, clock::milliseconds(act.at))? {
            Ok(stored) if stored.new == 1 => Ok(()),
            _ => Err(StoreError::Unreadable("an act's number")),
        }
    }

    /// Enters an act by itself.
    pub(crate) async fn record(&self, act: Act) -> Result<(), StoreError> {
        let journal = self.clone();
        self.shared.store.write(move |writing| journal.enter(writing, &act)).await
    }

    /// Enters an act that happens whether or not it can be recorded; a failure is logged.
    pub(crate) async fn note(&self, act: Act) {
        let event = act.event.name();
        if let Err(error) = self.record(act).await {
            tracing::error!(event, error = %crate::chain(&error), "an act could not be recorded");
        }
    }
}

fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Any::StringValue(value.to_owned()))
}

fn random<const N: usize>() -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| StoreError::Unreadable("no randomness"))?;
    Ok(bytes)
}
