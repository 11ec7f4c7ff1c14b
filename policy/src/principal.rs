//! Who the peer is: a SPIFFE ID taken apart once for a connection, so that rules only compare strings.
//!
//! It does not check certificates; whoever makes a [`Principal`] has. Spec: SPIFFE-ID, and Istio's path
//! `/ns/<namespace>/sa/<service account>`.

use std::fmt;

/// The identity of a peer: `<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    id: Box<str>,
    trust_domain: usize,
    namespace: usize,
}

/// Why a string is not a mesh identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// It does not begin with `spiffe://`.
    #[error("a client identity must begin with `spiffe://`")]
    NotSpiffe,
    /// The path is not `/ns/<namespace>/sa/<service account>`.
    #[error(
        "a client identity must have the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
    )]
    BadForm,
    /// A part is empty or has characters that SPIFFE does not allow.
    #[error("a part of the client identity is empty or has characters that SPIFFE does not allow")]
    BadPart,
}

impl Principal {
    /// Reads `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    pub fn from_spiffe_id(id: &str) -> Result<Self, PrincipalError> {
        let id = id.strip_prefix("spiffe://").ok_or(PrincipalError::NotSpiffe)?;
        let mut parts = id.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(trust_domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Self::new(trust_domain, namespace, account)
            }
            _ => Err(PrincipalError::BadForm),
        }
    }

    /// Puts an identity together from its parts.
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, PrincipalError> {
        let domain_ok = trust_domain
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b));
        let path_ok = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        };
        if trust_domain.is_empty() || !domain_ok || !path_ok(namespace) || !path_ok(service_account)
        {
            return Err(PrincipalError::BadPart);
        }
        Ok(Self {
            id: format!("{trust_domain}/ns/{namespace}/sa/{service_account}").into(),
            trust_domain: trust_domain.len(),
            namespace: namespace.len(),
        })
    }

    /// `<trust domain>/ns/<namespace>/sa/<service account>`, as policies write it.
    pub fn as_str(&self) -> &str {
        &self.id
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        self.id.get(..self.trust_domain).unwrap_or_default()
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        let start = self.trust_domain + "/ns/".len();
        self.id.get(start..start + self.namespace).unwrap_or_default()
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        let start = self.trust_domain + "/ns/".len() + self.namespace + "/sa/".len();
        self.id.get(start..).unwrap_or_default()
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.id)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_out_as_they_went_in() {
        let principal = Principal::from_spiffe_id("spiffe://example.org/ns/shop/sa/web").unwrap();
        assert_eq!(principal.as_str(), "example.org/ns/shop/sa/web");
        assert_eq!(principal.trust_domain(), "example.org");
        assert_eq!(principal.namespace(), "shop");
        assert_eq!(principal.service_account(), "web");
        assert_eq!(principal.to_string(), "spiffe://example.org/ns/shop/sa/web");
    }

    #[test]
    fn anything_else_is_refused() {
        use PrincipalError::{BadForm, BadPart, NotSpiffe};
        for (id, error) in [
            ("example.org/ns/shop/sa/web", NotSpiffe),
            ("SPIFFE://example.org/ns/shop/sa/web", NotSpiffe),
            ("spiffe://example.org", BadForm),
            ("spiffe://example.org/ns/shop/sa/web/x", BadForm),
            ("spiffe://example.org/sa/shop/ns/web", BadForm),
            ("spiffe://example.org//ns/shop/sa/web", BadForm),
            ("spiffe:///ns/shop/sa/web", BadPart),
            ("spiffe://Example.org/ns/shop/sa/web", BadPart),
            ("spiffe://example.org/ns//sa/web", BadPart),
            ("spiffe://example.org/ns/shop/sa/", BadPart),
            ("spiffe://example.org/ns/../sa/web", BadPart),
            ("spiffe://example.org/ns/sh%6fp/sa/web", BadPart),
            ("spiffe://example.org:1/ns/shop/sa/web", BadPart),
        ] {
            assert_eq!(Principal::from_spiffe_id(id), Err(error), "{id}");
        }
    }
}
