//! What does an external authorizer say? Asked about what a CUSTOM policy's rules match, before DENY and ALLOW.
//!
//! Only a yes that is understood is one. A connection that is refused or breaks, an answer that is late, too large,
//! malformed or an error denies, unless the policy's authorizer says `failOpen`. Nothing is asked twice and no answer
//! is kept; whoever goes away while it is awaited takes the question back. A worker asks on connections of its own.
//!
//! Which requests, and of whom, is said by [`picket_policy::WorkloadPolicy::custom`].

mod client;
mod grpc;
mod http;

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::header::COOKIE;
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use bytes::Bytes;
use picket_policy::authorizer::{Check, ExternalAuthorizer, is_reserved};

use crate::headers;
use crate::worker::Worker;
use client::Client;

/// What keeps an authorizer from being understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    #[error("the authorizer did not answer within {0:?}")]
    Timeout(Duration),
    #[error("the authorizer cannot be reached")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    #[error("the connection to the authorizer broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the authorizer answered {0}")]
    Status(StatusCode),
    #[error("the authorizer answered with gRPC status {0}")]
    GrpcStatus(i32),
    #[error("the authorizer's answer is larger than {} bytes", client::MAX_ANSWER)]
    TooLarge,
    #[error("the authorizer's answer cannot be understood: {0}")]
    Malformed(&'static str),
    #[error("the authorizer reports an error of its own")]
    Reported,
    #[error("the authorizer asks for {0}, which is not done here")]
    Unsupported(&'static str),
    #[error("an HTTP authorizer cannot be asked about a raw connection")]
    RawConnection,
}

impl CheckError {
    /// A short stable name, for records and metrics.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::Broken(_) => "broken",
            Self::Status(_) | Self::GrpcStatus(_) | Self::Reported => "error",
            Self::TooLarge => "too_large",
            Self::Malformed(_) => "malformed",
            Self::Unsupported(_) => "unsupported",
            Self::RawConnection => "raw_connection",
        }
    }
}

/// What is asked about: a request as it would be forwarded, or a raw connection.
pub(crate) struct Question<'a> {
    /// SPIFFE ID of the caller, if it proved one.
    pub(crate) source: Option<&'a str>,
    /// SPIFFE ID of this workload.
    pub(crate) destination: &'a str,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) sni: Option<&'a str>,
    pub(crate) is_tls: bool,
    pub(crate) request: Option<Head<'a>>,
}

/// The head of a request, in its normal spelling.
pub(crate) struct Head<'a> {
    /// Names the decision.
    pub(crate) id: &'a str,
    pub(crate) method: &'a Method,
    /// Path and query.
    pub(crate) target: &'a str,
    pub(crate) version: Version,
    pub(crate) headers: &'a HeaderMap,
    /// What the service will be told of the caller.
    pub(crate) xfcc: Option<&'a HeaderValue>,
}

impl Head<'_> {
    /// The headers that an authorizer may be told: of each name all values, joined as the name wants it.
    fn headers(&self) -> impl Iterator<Item = (HeaderName, Cow<'_, [u8]>)> {
        let own = self.xfcc.map(|value| (headers::XFCC, Cow::Borrowed(value.as_bytes())));
        let sent = self.headers.keys().filter(|name| !headers::is_hop(name)).map(|name| {
            let mut values = self.headers.get_all(name).iter().map(HeaderValue::as_bytes);
            let first = values.next().unwrap_or_default();
            let separator: &[u8] = if name == COOKIE { b"; " } else { b"," };
            let joined = values.fold(Cow::Borrowed(first), |mut all, next| {
                all.to_mut().extend_from_slice(separator);
                all.to_mut().extend_from_slice(next);
                all
            });
            (name.clone(), joined)
        });
        sent.chain(own)
    }
}

/// A yes, and what the authorizer wants changed.
#[derive(Default)]
pub(crate) struct Consent {
    to_service: Changes,
    to_client: Changes,
}

/// What becomes of headers, in order. The proxy's own are left alone, whatever an authorizer says.
#[derive(Default)]
pub(crate) struct Changes(Vec<(HeaderName, Change)>);

enum Change {
    Replace(HeaderValue),
    Append(HeaderValue),
    AddIfAbsent(HeaderValue),
    ReplaceIfPresent(HeaderValue),
    Remove,
}

impl Consent {
    /// Takes over what the service shall be told; hands back what the client shall be.
    pub(crate) fn apply(self, headers: &mut HeaderMap) -> Changes {
        self.to_service.apply(headers);
        self.to_client
    }
}

impl Changes {
    fn push(&mut self, name: HeaderName, change: Change) {
        if !is_reserved(name.as_str()) {
            self.0.push((name, change));
        }
    }

    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        for (name, change) in self.0 {
            match change {
                Change::Replace(value) => {
                    headers.insert(name, value);
                }
                Change::Append(value) => {
                    headers.append(name, value);
                }
                Change::AddIfAbsent(value) => {
                    headers.entry(name).or_insert(value);
                }
                Change::ReplaceIfPresent(value) if headers.contains_key(&name) => {
                    headers.insert(name, value);
                }
                Change::ReplaceIfPresent(_) => {}
                Change::Remove => {
                    headers.remove(name);
                }
            }
        }
    }
}

/// A no.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// What the client shall read; none if the authorizer gave no answer that is understood.
    pub(crate) said: Option<Box<Said>>,
}

/// An authorizer's own words.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl fmt::Debug for Said {
    // Its headers may set cookies.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Said").finish_non_exhaustive()
    }
}

impl Refusal {
    /// A denial never looks like a success.
    fn new(status: StatusCode, said: Said) -> Self {
        let is_denial =
            status.is_redirection() || status.is_client_error() || status.is_server_error();
        let status = if is_denial { status } else { StatusCode::FORBIDDEN };
        Self { status, said: Some(Box::new(said)) }
    }
}

/// What came of asking, for the record.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) authorizer: Arc<ExternalAuthorizer>,
    /// `allowed`, `denied`, or what failed.
    pub(crate) outcome: &'static str,
    pub(crate) took: Duration,
}

/// One worker's way to the authorizer of the policy in force.
#[derive(Default)]
pub(crate) struct Authorizers(RefCell<Option<Rc<Client>>>);

impl Authorizers {
    fn client(&self, authorizer: &Arc<ExternalAuthorizer>) -> Rc<Client> {
        let mut current = self.0.borrow_mut();
        match current.as_ref().filter(|client| client.is_for(authorizer)) {
            Some(client) => Rc::clone(client),
            // Whoever still waits for an answer of the one before keeps that until it has come.
            None => Rc::clone(current.insert(Rc::new(Client::new(authorizer)))),
        }
    }
}

/// Asks. The second half tells what came of it.
pub(crate) async fn ask(
    worker: &Worker,
    authorizer: &Arc<ExternalAuthorizer>,
    question: &Question<'_>,
) -> (Result<Consent, Refusal>, Asked) {
    let started = Instant::now();
    let client = worker.authorizers.client(authorizer);
    let timeout = authorizer.timeout();
    let answer = tokio::time::timeout(timeout, check(&client, authorizer, question)).await;
    let answer = answer.unwrap_or(Err(CheckError::Timeout(timeout)));
    let took = started.elapsed();
    client.note(authorizer, answer.as_ref().err());
    let (result, outcome) = match answer {
        Ok(Ok(consent)) => (Ok(consent), "allowed"),
        Ok(Err(refusal)) => (Err(refusal), "denied"),
        Err(error) => (on_error(authorizer), error.code()),
    };
    worker.recorder.metrics.authorizer_asked(authorizer.name(), outcome, took);
    (result, Asked { authorizer: Arc::clone(authorizer), outcome, took })
}

fn on_error(authorizer: &ExternalAuthorizer) -> Result<Consent, Refusal> {
    if authorizer.is_fail_open() {
        return Ok(Consent::default());
    }
    let status = StatusCode::from_u16(authorizer.status_on_error());
    Err(Refusal { status: status.unwrap_or(StatusCode::FORBIDDEN), said: None })
}

async fn check(
    client: &Client,
    authorizer: &ExternalAuthorizer,
    question: &Question<'_>,
) -> Result<Result<Consent, Refusal>, CheckError> {
    match authorizer.check() {
        Check::Grpc => {
            let request = grpc::request(client.authority(), authorizer, question)?;
            grpc::answer(client.send(request).await?)
        }
        Check::Http(check) => {
            let head = question.request.as_ref().ok_or(CheckError::RawConnection)?;
            let request = http::request(client.authority(), check, head)?;
            http::answer(client.send(request).await?, check)
        }
    }
}
