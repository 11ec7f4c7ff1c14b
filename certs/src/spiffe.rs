//! SPIFFE IDs as this mesh uses them.
//!
//! Two shapes exist and nothing else is accepted: a workload,
//! `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, and an operator,
//! `spiffe://<trust domain>/operator/<role>/<name>`. The two can never be mistaken for each other,
//! so a workload's certificate opens no administrative door and an operator's opens no service.
//!
//! Specification: SPIFFE-ID sections 2.1 to 2.4.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest SPIFFE ID accepted, in bytes (SPIFFE-ID section 2.3).
pub const MAX_LENGTH: usize = 2048;
/// Longest trust domain name accepted, in bytes (SPIFFE-ID section 2.1).
pub const MAX_TRUST_DOMAIN_LENGTH: usize = 255;

/// The namespace of the mesh's own parts; nobody can join it.
pub const SYSTEM_NAMESPACE: &str = "picket-system";

const SCHEME: &str = "spiffe://";

/// Why a text is not one of our SPIFFE IDs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// The scheme is missing or another.
    #[error("{0:?} does not begin with \"spiffe://\"")]
    Scheme(String),
    /// The trust domain is empty, too long or has a character that is not allowed.
    #[error("trust domain {0:?} is not 1 to 255 of the characters a-z 0-9 . - _")]
    TrustDomain(String),
    /// The path is neither `/ns/<namespace>/sa/<service account>` nor `/operator/<role>/<name>`.
    #[error("{0:?} is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Path(String),
    /// A path segment is empty, `.`, `..` or has a character that is not allowed.
    #[error("path segment {0:?} is not made of the characters a-z A-Z 0-9 . - _")]
    Segment(String),
    /// Longer than [`MAX_LENGTH`].
    #[error("a SPIFFE ID has at most {MAX_LENGTH} bytes, this one has {0}")]
    Length(usize),
}

/// The name of a trust domain, such as `example.org`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name, without a scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > MAX_TRUST_DOMAIN_LENGTH || !name.bytes().all(allowed) {
            return Err(SpiffeIdError::TrustDomain(name.to_owned()));
        }
        Ok(Self(name.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The identity of a workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

impl SpiffeId {
    /// Builds the identity of a service account.
    ///
    /// # Errors
    /// When a part has a character that a SPIFFE path segment may not have, or the whole is too long.
    pub fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        check_segment(namespace)?;
        check_segment(service_account)?;
        let uri = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        check_length(&uri)?;
        Ok(Self {
            uri: uri.into(),
            trust_domain: trust_domain.clone(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }

    /// The identity that every control plane of a trust domain proves to its proxies.
    ///
    /// # Errors
    /// When the trust domain's name leaves no room for it.
    pub fn control_plane(trust_domain: &TrustDomain) -> Result<Self, SpiffeIdError> {
        Self::new(trust_domain, SYSTEM_NAMESPACE, "control")
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The URI, to be shared without copying.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.uri)
    }

    /// The URI without its scheme, as Istio's `principals` spell it.
    pub fn principal(&self) -> &str {
        self.uri.get(SCHEME.len()..).unwrap_or_default()
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        match uri.parse()? {
            Identity::Workload(id) => Ok(id),
            Identity::Operator(_) => Err(SpiffeIdError::Path(uri.to_owned())),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.uri, f)
    }
}

/// What an operator may do; each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads status, audit and configuration.
    Viewer,
    /// Also creates join tokens and changes the mesh's day-to-day state.
    Operator,
    /// Also creates operators.
    Admin,
}

impl Role {
    /// The name as it stands in certificates and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a role: use viewer, operator or admin")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "viewer" => Ok(Self::Viewer),
            "operator" => Ok(Self::Operator),
            "admin" => Ok(Self::Admin),
            other => Err(UnknownRole(other.to_owned())),
        }
    }
}

/// The identity of a person or script that administers the mesh:
/// `spiffe://<trust domain>/operator/<role>/<name>`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OperatorId {
    uri: Arc<str>,
    trust_domain: TrustDomain,
    role: Role,
    name: Arc<str>,
}

impl OperatorId {
    /// Builds an operator's identity.
    ///
    /// # Errors
    /// When the name has a character that a SPIFFE path segment may not have.
    pub fn new(trust_domain: &TrustDomain, role: Role, name: &str) -> Result<Self, SpiffeIdError> {
        check_segment(name)?;
        let uri = format!("{SCHEME}{trust_domain}/operator/{role}/{name}");
        check_length(&uri)?;
        Ok(Self { uri: uri.into(), trust_domain: trust_domain.clone(), role, name: name.into() })
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// What the operator may do.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The operator's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Either of the two shapes of identity that our certificates carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A service's sidecar, or a service itself.
    Workload(SpiffeId),
    /// Somebody who administers the mesh.
    Operator(OperatorId),
}

impl Identity {
    /// The whole URI.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Workload(id) => id.as_str(),
            Self::Operator(id) => id.as_str(),
        }
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::Workload(id) => &id.trust_domain,
            Self::Operator(id) => &id.trust_domain,
        }
    }
}

impl FromStr for Identity {
    type Err = SpiffeIdError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        check_length(uri)?;
        let rest = uri.strip_prefix(SCHEME).ok_or_else(|| SpiffeIdError::Scheme(uri.to_owned()))?;
        let (trust_domain, path) =
            rest.split_once('/').ok_or_else(|| SpiffeIdError::Path(uri.to_owned()))?;
        let trust_domain: TrustDomain = trust_domain.parse()?;
        let mut segments = path.split('/');
        let mut next = || segments.next();
        match (next(), next(), next(), next(), next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Ok(Self::Workload(SpiffeId::new(&trust_domain, namespace, account)?))
            }
            (Some("operator"), Some(role), Some(name), None, _) => {
                let role = role.parse().map_err(|_| SpiffeIdError::Path(uri.to_owned()))?;
                Ok(Self::Operator(OperatorId::new(&trust_domain, role, name)?))
            }
            _ => Err(SpiffeIdError::Path(uri.to_owned())),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if segment.is_empty() || segment == "." || segment == ".." || !segment.bytes().all(allowed) {
        return Err(SpiffeIdError::Segment(segment.to_owned()));
    }
    Ok(())
}

fn check_length(uri: &str) -> Result<(), SpiffeIdError> {
    if uri.len() > MAX_LENGTH {
        return Err(SpiffeIdError::Length(uri.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_read_into_its_parts() {
        let id: SpiffeId = "spiffe://example.org/ns/shop/sa/orders".parse().unwrap();
        assert_eq!(id.trust_domain().as_str(), "example.org");
        assert_eq!(id.namespace(), "shop");
        assert_eq!(id.service_account(), "orders");
        assert_eq!(id.principal(), "example.org/ns/shop/sa/orders");
        assert_eq!(id.to_string(), "spiffe://example.org/ns/shop/sa/orders");
    }

    #[test]
    fn an_operator_is_not_a_workload() {
        let uri = "spiffe://example.org/operator/admin/ana";
        let Identity::Operator(id) = uri.parse().unwrap() else { panic!("not an operator") };
        assert_eq!((id.role(), id.name()), (Role::Admin, "ana"));
        assert!(uri.parse::<SpiffeId>().is_err());
        assert!(Role::Admin > Role::Operator && Role::Operator > Role::Viewer);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "spiffe://",
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe:///ns/a/sa/b",
            "SPIFFE://example.org/ns/a/sa/b",
            "https://example.org/ns/a/sa/b",
            "spiffe://Example.org/ns/a/sa/b",
            "spiffe://example.org:8080/ns/a/sa/b",
            "spiffe://user@example.org/ns/a/sa/b",
            "spiffe://example.org/ns/a/sa/b/",
            "spiffe://example.org/ns/a/sa/b/c",
            "spiffe://example.org/ns//sa/b",
            "spiffe://example.org/ns/../sa/b",
            "spiffe://example.org/ns/a/sa/b?x",
            "spiffe://example.org/ns/a/sa/b#x",
            "spiffe://example.org/ns/a/sa/%62",
            "spiffe://example.org/sa/b/ns/a",
            "spiffe://example.org/operator/root/ana",
            "spiffe://example.org/ns/a/sa/b\0",
            "spiffe://example.org/ns/a/sa/é",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad:?} was accepted");
        }
        let long = format!("spiffe://example.org/ns/a/sa/{}", "b".repeat(MAX_LENGTH));
        assert!(matches!(long.parse::<Identity>(), Err(SpiffeIdError::Length(_))));
    }
}
