//! What goes into a policy set: documents and the settings that their meaning depends on.
//!
//! Plain data; reading files and watching directories is the caller's work.

use std::collections::BTreeMap;

pub use picket_documents::Document;

/// What the operator sets for the whole mesh, beside the policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What happens to a request for a workload that no ALLOW policy selects. Istio's own is allow; ours is deny.
    pub default_action: DefaultAction,
    /// The mTLS mode where no PeerAuthentication says one. Istio's own is permissive; ours is strict.
    pub default_mtls: MtlsMode,
    /// The namespace whose policies apply to the whole mesh.
    pub root_namespace: String,
    /// The mesh's trust domain, if policies may be written for one of its aliases or for `cluster.local`.
    pub trust_domain: Option<String>,
    /// Further trust domains that count as the mesh's own in principals.
    pub trust_domain_aliases: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_action: DefaultAction::Deny,
            default_mtls: MtlsMode::Strict,
            root_namespace: "istio-system".to_owned(),
            trust_domain: None,
            trust_domain_aliases: Vec::new(),
        }
    }
}

/// What happens where no ALLOW policy selects the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// The request passes.
    Allow,
    /// The request is refused.
    Deny,
}

/// Whether a client must prove an identity by mTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MtlsMode {
    /// Plain text; an identity that is shown all the same is ignored.
    Disable,
    /// Either; an identity that is shown counts.
    Permissive,
    /// mTLS only.
    Strict,
}

impl MtlsMode {
    /// The mode as Istio writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        }
    }
}

/// The workload that a request is for, as far as selectors look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its name; only messages use it.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}
