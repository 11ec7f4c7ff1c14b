//! Policy sets as operators read and hand them in.

use picket_policy::{DefaultAction, MtlsMode, Settings};
use serde::{Deserialize, Serialize};

/// `GET /api/v1/policies/set`: the set in force, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoliciesInForce {
    /// What it is called.
    pub generation: String,
    /// The settings that its meaning depends on.
    pub settings: PolicySettings,
    /// One for each YAML document.
    pub documents: Vec<PolicyDocument>,
}

/// What is set for the whole mesh, beside the policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySettings {
    /// `allow` or `deny`.
    pub default_action: String,
    /// `DISABLE`, `PERMISSIVE` or `STRICT`.
    pub default_mtls: String,
    /// The namespace whose policies apply to the whole mesh.
    pub root_namespace: String,
    /// The mesh's trust domain.
    pub trust_domain: Option<String>,
    /// Its other names.
    pub trust_domain_aliases: Vec<String>,
}

/// One YAML document of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDocument {
    /// The file, relative to the policy directory.
    pub file: String,
    /// The line of the file at which it starts.
    pub first_line: u32,
    /// The YAML.
    pub text: String,
}

/// `PUT /api/v1/policies`: the whole content of the policy directory to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyPolicies {
    /// Its files.
    pub files: Vec<PolicyFile>,
    /// The generation that it is meant to replace; if another is in force by then, nothing is changed.
    #[serde(default)]
    pub replaces: Option<String>,
}

/// One file of a policy directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyFile {
    /// Its path, relative to the directory: `*.yaml` or `*.yml`.
    pub file: String,
    /// The YAML.
    pub text: String,
}

/// What became of a set that was handed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedPolicies {
    /// The generation in force.
    pub generation: String,
    /// The one before.
    pub replaced: Option<String>,
    /// Whether anything was changed; not if the set was in force already.
    pub changed: bool,
}

/// A setting that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the control plane has a setting that is not known here: {0}")]
pub struct UnknownSetting(String);

impl From<&Settings> for PolicySettings {
    fn from(settings: &Settings) -> Self {
        Self {
            default_action: match settings.default_action {
                DefaultAction::Allow => "allow".to_owned(),
                DefaultAction::Deny => "deny".to_owned(),
            },
            default_mtls: settings.default_mtls.as_str().to_owned(),
            root_namespace: settings.root_namespace.clone(),
            trust_domain: settings.trust_domain.clone(),
            trust_domain_aliases: settings.trust_domain_aliases.clone(),
        }
    }
}

impl TryFrom<PolicySettings> for Settings {
    type Error = UnknownSetting;

    fn try_from(settings: PolicySettings) -> Result<Self, UnknownSetting> {
        let modes = [MtlsMode::Disable, MtlsMode::Permissive, MtlsMode::Strict];
        let mode = modes.into_iter().find(|mode| mode.as_str() == settings.default_mtls);
        Ok(Self {
            default_action: match settings.default_action.as_str() {
                "allow" => DefaultAction::Allow,
                "deny" => DefaultAction::Deny,
                other => return Err(UnknownSetting(format!("default action {other:?}"))),
            },
            default_mtls: mode.ok_or_else(|| {
                UnknownSetting(format!("default mTLS mode {:?}", settings.default_mtls))
            })?,
            root_namespace: settings.root_namespace,
            trust_domain: settings.trust_domain,
            trust_domain_aliases: settings.trust_domain_aliases,
        })
    }
}
