//! The settings of the mesh, for commands that decide offline.

use clap::{Args, ValueEnum};

/// What a mesh is set to, as far as decisions depend on it.
#[derive(Args)]
pub(crate) struct MeshArguments {
    /// What happens to a workload that no ALLOW policy selects
    #[arg(long, value_enum, default_value = "deny")]
    pub(crate) default_action: ActionArgument,
    /// The mTLS mode where no PeerAuthentication says one
    #[arg(long, value_enum, default_value = "permissive")]
    pub(crate) default_mtls: MtlsArgument,
    /// The namespace whose policies apply to the whole mesh
    #[arg(long, default_value = "istio-system", value_name = "NS")]
    pub(crate) root_namespace: String,
    /// The mesh's trust domain, if policies name it by its aliases
    #[arg(long, value_name = "NAME")]
    pub(crate) trust_domain: Option<String>,
    /// Another name of the mesh's trust domain; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) trust_domain_alias: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ActionArgument {
    Allow,
    Deny,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MtlsArgument {
    Strict,
    Permissive,
    Disable,
}
