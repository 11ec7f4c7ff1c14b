//! What the mesh enforces now, and sets of policies that recorded requests are decided by once more.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use picket_control::operator::{PoliciesInForce, PolicyDocument, ProxyState, ProxyStatus, Status};
use picket_policy::{
    Decision, Document, Explanation, PolicySet, Redecision, Settings, Verdict, Workload,
    WorkloadPolicy,
};

use super::Entry;
use crate::client::Client;
use crate::exit::Failure;

/// What the control plane says is in force.
pub(crate) struct Mesh {
    pub(crate) generation: String,
    pub(crate) settings: Settings,
    pub(crate) documents: Vec<Document>,
    /// Every workload with a live proxy.
    pub(crate) live: Vec<Workload>,
}

impl Mesh {
    pub(crate) async fn ask(client: &Client) -> Result<Self, Failure> {
        let status: Status = client.get("/api/v1/status").await?;
        let set: PoliciesInForce = client.get("/api/v1/policies/set").await?;
        let settings = Settings::try_from(set.settings).map_err(|error| Failure::of(&error))?;
        let document = |d: PolicyDocument| Document {
            file: d.file.into(),
            first_line: d.first_line,
            text: d.text.into(),
        };
        let live = status.proxies.into_iter().filter(|proxy| proxy.state != ProxyState::Gone);
        let workload = |proxy: ProxyStatus| {
            let (namespace, name) = proxy.workload.split_once('/')?;
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            Some(Workload { namespace, name, labels: proxy.labels })
        };
        Ok(Self {
            generation: set.generation,
            settings,
            documents: set.documents.into_iter().map(document).collect(),
            live: live.filter_map(workload).collect(),
        })
    }

    /// The set in force, under its own name.
    pub(crate) fn in_force(&self) -> Result<Policies, Failure> {
        let failed = |what: String| {
            Failure::Failed(format!(
                "the policies in force are not understood here; is the control plane newer? {what}"
            ))
        };
        let set = PolicySet::parse(&self.documents, self.settings.clone())
            .map_err(|problems| failed(problems.to_string()))?;
        let generation = self.generation.parse().map_err(|_| failed(self.generation.clone()))?;
        Ok(Policies::new(set.with_generation(generation)))
    }

    /// `namespace/service account` of every workload with a live proxy.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.live.iter().map(|w| format!("{}/{}", w.namespace, w.name)).collect()
    }
}

/// A set of policies that recorded requests are decided by once more.
pub(crate) struct Policies {
    pub(crate) set: PolicySet,
    compiled: HashMap<Workload, Arc<WorkloadPolicy>>,
}

/// What a second decision came to.
pub(crate) enum Decided {
    /// The policies decide it.
    Now(Box<Decision>),
    /// Its token is refused again.
    TokenRefused,
    /// It depends on what no record holds.
    Unknown(BTreeSet<String>),
}

impl Decided {
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Now(decision) => Some(decision.verdict),
            Self::TokenRefused => Some(Verdict::Deny),
            Self::Unknown(_) => None,
        }
    }
}

impl Policies {
    pub(crate) fn new(set: PolicySet) -> Self {
        Self { set, compiled: HashMap::new() }
    }

    /// What holds for a workload with the labels of that time.
    pub(crate) fn of(&mut self, workload: &Workload) -> Arc<WorkloadPolicy> {
        if let Some(policy) = self.compiled.get(workload) {
            return Arc::clone(policy);
        }
        let policy = Arc::new(self.set.compile(workload));
        self.compiled.insert(workload.clone(), Arc::clone(&policy));
        policy
    }

    /// Decides a recorded request.
    pub(crate) fn decide(&mut self, entry: &Entry) -> Decided {
        if let Some(missing) = entry.missing {
            return Decided::Unknown([missing.to_owned()].into());
        }
        match self.of(&entry.workload).redecide(&entry.facts) {
            Redecision::Decided(decision) => Decided::Now(decision),
            Redecision::TokenRefused => Decided::TokenRefused,
            Redecision::Undecidable(names) => Decided::Unknown(names),
        }
    }

    /// The words for a decision of [`Policies::decide`].
    pub(crate) fn explain(&mut self, entry: &Entry, decision: &Decision) -> Explanation {
        self.of(&entry.workload).explain_recorded(&entry.facts, decision)
    }
}

/// A SPIFFE ID as people name a workload: `namespace/service account`.
pub(crate) fn short(id: Option<&str>) -> String {
    let Some(id) = id else { return "(no identity)".to_owned() };
    let parts = id.split_once("/ns/").and_then(|(_, rest)| rest.split_once("/sa/"));
    parts.map_or_else(|| id.to_owned(), |(namespace, account)| format!("{namespace}/{account}"))
}
