//! Why a token is refused.

use crate::decision::PolicyRef;
use crate::jwt::RemoteKeys;

/// A refusal, with what the caller may do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct TokenError {
    /// What is wrong.
    pub kind: TokenErrorKind,
    /// The RequestAuthentication whose rule refused it, if one was found for its issuer.
    pub by: Option<PolicyRef>,
    /// Keys that are not there or may be out of date: fetch them and try once more.
    pub refresh: Option<RemoteKeys>,
}

impl From<TokenErrorKind> for TokenError {
    fn from(kind: TokenErrorKind) -> Self {
        Self { kind, by: None, refresh: None }
    }
}

/// What is wrong with a token. The words name no part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum TokenErrorKind {
    /// RFC 6750 section 2: a client must not send more than one.
    #[error("the request carries more than one token")]
    MultipleTokens,
    /// Longer than 16 KiB.
    #[error("the token is longer than is read")]
    TooLarge,
    /// Not three base64url parts of JSON, a member written twice, or a claim of the wrong type.
    #[error("the token is malformed")]
    Malformed,
    /// `none`, HMAC, or one that does not fit the key.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// A `crit` header: extensions that must be understood.
    #[error("the token demands extensions that are not supported")]
    Critical,
    /// No rule accepts its issuer at the place where it was sent.
    #[error("the token's issuer is not accepted")]
    Issuer,
    /// None of the audiences that the rule names.
    #[error("the token is for another audience")]
    Audience,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("the token is not yet valid")]
    NotYetValid,
    /// `cnf.x5t#S256` names another certificate than the client's, or the client shows none.
    #[error("the token is bound to a certificate that the client does not show")]
    Binding,
    /// No `cnf.x5t#S256` where the policy demands one.
    #[error("the token is not bound to a certificate")]
    NotBound,
    /// No `exp` where the policy demands one.
    #[error("the token does not say when it expires")]
    MissingExpiration,
    /// No key of the issuer has its `kid`, or fits it.
    #[error("the token is signed with a key that is not known")]
    UnknownKey,
    /// The keys of the issuer could not be had.
    #[error("the keys of the token's issuer are not available")]
    KeysUnavailable,
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
    /// It is good in itself, but an operator has revoked it. Whoever keeps the list finds this, not the checks here.
    #[error("the token is revoked")]
    Revoked,
}

impl TokenErrorKind {
    /// The code in records and in JSON.
    pub fn code(self) -> &'static str {
        match self {
            Self::MultipleTokens => "multiple_tokens",
            Self::TooLarge => "jwt_too_large",
            Self::Malformed => "jwt_malformed",
            Self::Algorithm => "jwt_algorithm",
            Self::Critical => "jwt_critical",
            Self::Issuer => "jwt_issuer",
            Self::Audience => "jwt_audience",
            Self::Expired => "jwt_expired",
            Self::NotYetValid => "jwt_not_yet_valid",
            Self::Binding => "jwt_binding",
            Self::NotBound => "jwt_not_bound",
            Self::MissingExpiration => "jwt_missing_expiration",
            Self::UnknownKey => "jwt_unknown_key",
            Self::KeysUnavailable => "jwt_keys_unavailable",
            Self::Signature => "jwt_signature",
            Self::Revoked => "jwt_revoked",
        }
    }

    /// The HTTP status of the answer: RFC 6750 section 3.1 has `invalid_request` for several tokens, `invalid_token`
    /// for all else.
    pub fn status(self) -> u16 {
        match self {
            Self::MultipleTokens => 400,
            _ => 401,
        }
    }

    /// The `error` of a `WWW-Authenticate: Bearer` challenge (RFC 6750 section 3.1).
    pub fn challenge(self) -> &'static str {
        match self {
            Self::MultipleTokens => "invalid_request",
            _ => "invalid_token",
        }
    }

    /// How far the checks came, to tell which of several refusals says most.
    pub(crate) fn depth(self) -> u8 {
        match self {
            Self::MultipleTokens | Self::TooLarge | Self::Malformed | Self::Critical => 0,
            Self::Issuer => 1,
            Self::KeysUnavailable => 2,
            Self::UnknownKey | Self::Algorithm => 3,
            Self::Signature => 4,
            Self::Audience => 5,
            Self::Expired | Self::NotYetValid | Self::MissingExpiration | Self::NotBound => 6,
            Self::Binding | Self::Revoked => 7,
        }
    }
}
