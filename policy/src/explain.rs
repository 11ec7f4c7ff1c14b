//! Decides a request that somebody describes, as the proxy would, and says why: `picket authz explain`.
//!
//! Runs the stages of the proxy in their order with the same functions: the path is normalised, the peer checked
//! against PeerAuthentication, the token taken from the request and verified, then the rules decide. An external
//! authorizer is not asked: its answer is assumed, and the answer says so. A request that is
//! malformed is a deny with its reason, so that every line of a file of requests has its answer.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::attributes::{Attributes, Http};
use crate::authorizer::Consultation;
use crate::decision::{Decision, PolicyRef, ReasonCode, Stage, Verdict};
use crate::document::Workload;
use crate::explanation::NearestMiss;
use crate::jwt::{KeyProvider, TokenError, VerifiedToken};
use crate::path;
use crate::set::{Generation, PolicySet};
use crate::workload_policy::WorkloadPolicy;

mod request;
mod text;

use request::Malformed;
pub use request::{OneOrMany, Request};

/// The answer, as it is printed. The first nine fields and their order are an interface.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// `allow` or `deny`.
    pub decision: Verdict,
    /// The stage that decided.
    pub stage: Stage,
    /// The policy that decided, `namespace/name`.
    pub policy: Option<String>,
    /// Its rule, counted from 0.
    pub rule: Option<u32>,
    /// Its file.
    pub file: Option<String>,
    /// The line of the rule, or of the policy.
    pub line: Option<u32>,
    /// Why, in one sentence.
    pub reason: String,
    /// On a default deny: the ALLOW rule that came nearest.
    pub nearest_miss: Option<NearestMiss>,
    /// What dry-run policies would have done.
    pub dry_run: Vec<DryRun>,
    /// Why, as a code.
    pub code: &'static str,
    /// The HTTP status of the answer to the client; 200 stands for the application's own.
    pub status: u16,
    /// AUDIT policies that matched.
    pub audit: Vec<Place>,
    /// The set that decided.
    pub generation: Generation,
    /// The mTLS mode of the port.
    pub mtls: Option<&'static str>,
    /// The external authorizer that the proxy would ask, and what its answer was assumed to be.
    pub custom: Option<Custom>,
    /// `NAMESPACE/WORKLOAD`, for the text.
    #[serde(skip)]
    destination: String,
}

/// A policy and rule, and where they stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// `namespace/name`.
    pub policy: String,
    /// The rule, counted from 0.
    pub rule: Option<u32>,
    /// The file.
    pub file: String,
    /// The line of the rule, or of the policy.
    pub line: u32,
}

/// What an external authorizer is assumed to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Assumed {
    /// Yes, so that the answer is what the other policies say.
    #[default]
    Allow,
    /// No.
    Deny,
    /// Nothing: it cannot be reached, or its answer not be understood.
    Error,
}

/// An external authorizer that would be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Custom {
    /// The CUSTOM policy, and the rule that matched.
    #[serde(flatten)]
    pub place: Place,
    /// The name of the authorizer.
    pub authorizer: String,
    /// What it was assumed to say.
    pub assumed: Assumed,
}

/// What a dry-run policy would have done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DryRun {
    /// The policy, and the rule that matched.
    #[serde(flatten)]
    pub place: Place,
    /// What it would have come to.
    pub would: Verdict,
}

/// Answers requests against one set.
pub struct Explainer<'s> {
    set: &'s PolicySet,
    keys: &'s dyn KeyProvider,
    now: u64,
    assumed: Assumed,
    compiled: HashMap<Workload, WorkloadPolicy>,
}

/// Gets to see what the rules do.
type Observe<'o> = &'o mut dyn FnMut(&WorkloadPolicy, &Attributes<'_>);

impl<'s> Explainer<'s> {
    /// `keys` gives the keys of issuers whose rules name a `jwksUri`; `now`, in seconds since 1970, is the time that
    /// tokens are checked at.
    pub fn new(set: &'s PolicySet, keys: &'s dyn KeyProvider, now: u64) -> Self {
        Self { set, keys, now, assumed: Assumed::default(), compiled: HashMap::new() }
    }

    /// The same with another assumption of what external authorizers say.
    #[must_use]
    pub fn assuming(self, assumed: Assumed) -> Self {
        Self { assumed, ..self }
    }

    /// Answers a request written as one JSON object.
    pub fn answer_json(&mut self, json: &str) -> Answer {
        match serde_json::from_str::<Request>(json) {
            Ok(request) => self.answer(&request),
            // The parser's words name fields and types; they quote no more than one wrong value.
            Err(error) => {
                self.malformed(String::new(), &format!("the request is not understood: {error}"))
            }
        }
    }

    /// Answers a request.
    pub fn answer(&mut self, request: &Request) -> Answer {
        self.observe(request, &mut |_, _| {})
    }

    /// Answers a request, and names every rule that matches it; none if it was refused before the rules.
    pub fn answer_with_matches(&mut self, request: &Request) -> (Answer, Vec<PolicyRef>) {
        let mut matching = Vec::new();
        let answer = self.observe(request, &mut |policy, attributes| {
            matching = policy.matching(attributes);
        });
        (answer, matching)
    }

    /// Answers a request, and shows what the rules get to see of it.
    fn observe(&mut self, request: &Request, observe: Observe<'_>) -> Answer {
        let set = self.set;
        let (keys, now, assumed) = (self.keys, self.now, self.assumed);
        let workload = match request.workload() {
            Ok(workload) => workload,
            Err(Malformed(reason)) => return self.malformed(request.destination.clone(), &reason),
        };
        let policy =
            self.compiled.entry(workload).or_insert_with_key(|workload| set.compile(workload));
        match decide(policy, request, keys, now, assumed, observe) {
            Ok(answer) => answer,
            Err(Malformed(reason)) => self.malformed(request.destination.clone(), &reason),
        }
    }

    fn malformed(&self, destination: String, reason: &str) -> Answer {
        let decision = Decision::refused(Stage::Request, ReasonCode::Malformed, None);
        Answer::new(&decision, reason.to_owned(), None, self.set.generation(), None, destination)
    }
}

/// The stages, in the order of the proxy.
fn decide(
    policy: &WorkloadPolicy,
    request: &Request,
    keys: &dyn KeyProvider,
    now: u64,
    assumed: Assumed,
    observe: Observe<'_>,
) -> Result<Answer, Malformed> {
    let peer = request.peer()?;
    let (http, mut headers) = request.parts()?;
    let (mode, _) = policy.mtls_mode(request.port);
    let answer = |decision: &Decision, attributes: Option<&Attributes<'_>>| {
        let explanation = policy.explain_decision(decision, attributes);
        let miss = explanation.nearest_miss;
        let destination = request.destination.clone();
        Answer::new(
            decision,
            explanation.reason,
            miss,
            policy.generation(),
            Some(mode.as_str()),
            destination,
        )
    };

    let target = match &http {
        Some((_, target)) => match path::normalize(target) {
            Ok(target) => Some(target),
            Err(error) => {
                return Ok(answer(&error.into(), None));
            }
        },
        None => None,
    };
    let peer = match policy.authenticate_peer(request.port, peer.as_ref()) {
        Ok(peer) => peer,
        Err(refusal) => return Ok(answer(&refusal, None)),
    };
    let rules = policy.request_rules();
    let mut query = target.as_ref().and_then(|target| target.query).map(str::to_owned);
    if let Some(token) = &request.token {
        rules
            .present(token, &mut headers, &mut query)
            .map_err(|_| Malformed("token is not text".to_owned()))?;
    }
    let certificate = request.certificate()?;
    let verified = match &request.claims {
        Some(claims) => {
            let token = rules.assume(claims);
            let assumed = token.bound_to().copied();
            bound(token, certificate.or(assumed).as_ref()).map(Some)
        }
        None => rules.extract(&headers, query.as_deref()).and_then(|token| match token {
            Some(token) => bound(rules.verify(&token, keys, now)?, certificate.as_ref()).map(Some),
            None => Ok(None),
        }),
    };
    let token = match verified {
        Ok(token) => token,
        Err(error) => return Ok(answer(&error.into(), None)),
    };
    rules.apply(token.as_ref(), &mut headers);
    let sni = request.sni.as_ref().map(|sni| sni.to_ascii_lowercase());
    let host = request.host.as_deref().or_else(|| headers.get(http::header::HOST)?.to_str().ok());
    let attributes = |headers| Attributes {
        peer,
        source_ip: request.source_ip,
        remote_ip: request.remote_ip.or(request.source_ip),
        destination_ip: request.destination_ip,
        destination_port: request.port,
        sni: sni.as_deref(),
        http: http.as_ref().zip(target.as_ref()).map(|((method, _), target)| Http {
            method,
            path: &target.path,
            host,
            headers,
            token: token.as_ref(),
        }),
    };
    let consultation = policy.custom(&attributes(&headers));
    let custom = consultation.as_ref().map(|consultation| Custom {
        place: Place::from(&consultation.by),
        authorizer: consultation.authorizer.name().to_owned(),
        assumed,
    });
    if let Some(Consultation { by, authorizer }) = &consultation {
        let code = match assumed {
            Assumed::Deny => Some(ReasonCode::CustomDenied),
            Assumed::Error if !authorizer.is_fail_open() => Some(ReasonCode::CustomError),
            Assumed::Allow | Assumed::Error => None,
        };
        if let Some(code) = code {
            let decision = policy.refuse_custom(&attributes(&headers), by.clone(), code);
            let mut answer = Answer { custom, ..answer(&decision, None) };
            if code == ReasonCode::CustomError {
                answer.status = authorizer.status_on_error();
            }
            return Ok(answer);
        }
    }
    let mut forwarded = headers.clone();
    if let Some(authorizer) = policy.authorizer() {
        authorizer.strip_forgeable(&mut forwarded, consultation.is_some());
    }
    let attributes = attributes(&forwarded);
    observe(policy, &attributes);
    Ok(Answer { custom, ..answer(&policy.decide(&attributes), Some(&attributes)) })
}

/// The token, if it may come from whoever has this certificate.
fn bound(
    token: VerifiedToken,
    certificate: Option<&[u8; 32]>,
) -> Result<VerifiedToken, TokenError> {
    match token.check_binding(certificate) {
        Ok(()) => Ok(token),
        Err(kind) => {
            let by = token.accepted_by().cloned();
            Err(TokenError { by, ..kind.into() })
        }
    }
}

impl Answer {
    /// Names files as a reader finds them who is not in the directory of the policies.
    pub fn place_in(&mut self, directory: &str) {
        let place = |file: &str| {
            let separator = if directory.ends_with('/') { "" } else { "/" };
            format!("{directory}{separator}{file}")
        };
        if let Some(file) = &mut self.file {
            *file = place(file);
        }
        if let Some(miss) = &mut self.nearest_miss {
            miss.file = place(&miss.file).into();
        }
        let hits = self.dry_run.iter_mut().map(|hit| &mut hit.place);
        for hit in hits.chain(&mut self.audit) {
            hit.file = place(&hit.file);
        }
    }

    fn new(
        decision: &Decision,
        reason: String,
        nearest_miss: Option<NearestMiss>,
        generation: Generation,
        mtls: Option<&'static str>,
        destination: String,
    ) -> Self {
        let by = decision.by.as_ref();
        Self {
            decision: decision.verdict,
            stage: decision.stage,
            policy: by.map(|by| by.policy().to_owned()),
            rule: by.and_then(PolicyRef::rule),
            file: by.map(|by| by.file().to_string()),
            line: by.map(PolicyRef::line),
            reason,
            nearest_miss,
            dry_run: decision
                .dry_run
                .iter()
                .map(|hit| DryRun { place: Place::from(&hit.policy), would: hit.would })
                .collect(),
            code: decision.code.as_str(),
            status: decision.code.status(),
            audit: decision.audit.iter().map(Place::from).collect(),
            generation,
            mtls,
            custom: None,
            destination,
        }
    }
}

impl From<&PolicyRef> for Place {
    fn from(policy: &PolicyRef) -> Self {
        Self {
            policy: policy.policy().to_owned(),
            rule: policy.rule(),
            file: policy.file().to_string(),
            line: policy.line(),
        }
    }
}

impl fmt::Debug for Explainer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explainer")
            .field("generation", &self.set.generation())
            .finish_non_exhaustive()
    }
}
