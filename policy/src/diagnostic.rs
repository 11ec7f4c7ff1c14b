//! What can be wrong with a policy file. Each kind of problem has a code that stays the same for ever, so that it can be
//! searched for and silenced.

pub use picket_documents::{Diagnostic, Diagnostics, Fix, Severity};

/// The codes, one for each kind of problem. `P00` is YAML, `P01` the object, `P02` any field, `P03`
/// AuthorizationPolicy, `P04` PeerAuthentication, `P05` RequestAuthentication, `P06` RateLimit, `P07` PolicyTest, `P08`
/// ExternalAuthorizer, `P09` export; from `90` on they are warnings.
pub mod code {
    pub use picket_documents::diagnostic::code::*;

    /// A document that is not a Kubernetes object.
    pub const NOT_AN_OBJECT: &str = "P0101";
    /// A kind that is not read.
    pub const UNKNOWN_KIND: &str = "P0102";
    /// An `apiVersion` that is not read for this kind.
    pub const UNKNOWN_VERSION: &str = "P0103";
    /// A name that Kubernetes would not take.
    pub const BAD_NAME: &str = "P0105";
    /// Two objects of one kind with one name.
    pub const DUPLICATE_OBJECT: &str = "P0106";
    /// An annotation of ours or Istio's that is unknown, misplaced or has a bad value.
    pub const BAD_ANNOTATION: &str = "P0107";
    /// A field of Istio's that is not implemented.
    pub const NOT_IMPLEMENTED: &str = "P0207";
    /// A label selector that selects nothing Istio knows.
    pub const BAD_SELECTOR: &str = "P0208";
    /// An unknown `action`.
    pub const UNKNOWN_ACTION: &str = "P0301";
    /// A CUSTOM policy without an authorizer that the set defines.
    pub const CUSTOM_ACTION: &str = "P0302";
    /// A DENY, AUDIT or CUSTOM policy that can never match.
    pub const NEVER_MATCHES: &str = "P0303";
    /// A `source` or `operation` without a field.
    pub const EMPTY_MATCH: &str = "P0304";
    /// Not an IP address or CIDR range.
    pub const BAD_IP: &str = "P0305";
    /// Not a port number.
    pub const BAD_PORT: &str = "P0306";
    /// Fields that exclude each other.
    pub const CONFLICT: &str = "P0307";
    /// Not `[namespace/]serviceAccount`.
    pub const BAD_SERVICE_ACCOUNT: &str = "P0308";
    /// A path template that is not one.
    pub const BAD_TEMPLATE: &str = "P0309";
    /// A condition key that is unknown or not implemented.
    pub const UNKNOWN_CONDITION: &str = "P0310";
    /// A condition without `values` and `notValues`.
    pub const EMPTY_CONDITION: &str = "P0311";
    /// `provider` without action CUSTOM.
    pub const MISPLACED_PROVIDER: &str = "P0312";
    /// A principal that can never be one, such as `spiffe://…`.
    pub const BAD_PRINCIPAL: &str = "P0313";
    /// Two authorizers for one workload.
    pub const TWO_PROVIDERS: &str = "P0314";
    /// Warning: a star that is not at an end is taken literally.
    pub const LITERAL_STAR: &str = "P0390";
    /// Warning: a DENY rule with HTTP fields only denies all TCP traffic.
    pub const DENIES_ALL_TCP: &str = "P0391";
    /// Warning: a value that no request can have.
    pub const UNREACHABLE_VALUE: &str = "P0392";
    /// Warning: `rules: [{}]` in an ALLOW policy lets everything pass.
    pub const ALLOWS_ALL: &str = "P0393";
    /// Warning: a rule that no request can match.
    pub const DEAD_RULE: &str = "P0394";
    /// Warning: a rule that changes nothing, because another one decides all that it matches.
    pub const SHADOWED_RULE: &str = "P0395";
    /// Warning: a dash that makes two alternatives of what looks like one.
    pub const EXTRA_DASH: &str = "P0396";
    /// Warning: a principal pattern that lets in more identities than it seems to.
    pub const WIDE_PRINCIPAL: &str = "P0397";
    /// Warning: a rule with HTTP fields names a TCP port.
    pub const HTTP_ON_TCP: &str = "P0398";
    /// Warning: a value is written twice in one list.
    pub const DUPLICATE_VALUE: &str = "P0399";
    /// Warning: `selector` without labels selects every workload.
    pub const SELECTS_ALL: &str = "P0290";
    /// An unknown mTLS mode.
    pub const UNKNOWN_MODE: &str = "P0401";
    /// `portLevelMtls` without a selector, or empty.
    pub const PORTS_NEED_SELECTOR: &str = "P0402";
    /// Several PeerAuthentications at one level.
    pub const AMBIGUOUS_PEER: &str = "P0403";
    /// A PeerAuthentication with a selector in the root namespace.
    pub const ROOT_SELECTOR: &str = "P0404";
    /// Warning: two PeerAuthentications may select the same workload.
    pub const OVERLAPPING_PEER: &str = "P0490";
    /// Neither `issuer` nor `jwksUri`, or no way to find the keys.
    pub const NO_KEYS: &str = "P0501";
    /// A URL that is not `http://` or `https://`.
    pub const BAD_URL: &str = "P0502";
    /// A key set that is not one.
    pub const BAD_JWKS: &str = "P0503";
    /// Not a header, cookie or parameter name.
    pub const BAD_TOKEN_LOCATION: &str = "P0504";
    /// Not a duration.
    pub const BAD_DURATION: &str = "P0505";
    /// One header is written by two fields.
    pub const HEADER_TWICE: &str = "P0506";
    /// Warning: keys of the set are of no use.
    pub const UNUSED_KEYS: &str = "P0590";
    /// Warning: tokens are checked and nothing demands one.
    pub const TOKEN_OPTIONAL: &str = "P0591";
    /// Warning: no policy asks for the tokens of an issuer.
    pub const UNUSED_ISSUER: &str = "P0592";
    /// A number of requests, a time or a key that is none.
    pub const BAD_RATE: &str = "P0601";
    /// A test of a PolicyTest that is none.
    pub const BAD_TEST: &str = "P0701";
    /// A host, port, path, status, time or header of an ExternalAuthorizer that is none.
    pub const BAD_AUTHORIZER: &str = "P0801";
    /// Warning: an authorizer that fails lets requests pass.
    pub const FAILS_OPEN: &str = "P0890";
    /// Envoy cannot be told it.
    pub const NOT_FOR_ENVOY: &str = "P0901";
    /// Warning: it is left out of a configuration for Envoy.
    pub const NOT_EXPORTED: &str = "P0990";

    /// All warnings about policies: what the annotation `picket.dev/lint-ignore` may name.
    pub const WARNINGS: [&str; 16] = [
        SELECTS_ALL,
        LITERAL_STAR,
        DENIES_ALL_TCP,
        UNREACHABLE_VALUE,
        ALLOWS_ALL,
        DEAD_RULE,
        SHADOWED_RULE,
        EXTRA_DASH,
        WIDE_PRINCIPAL,
        HTTP_ON_TCP,
        DUPLICATE_VALUE,
        OVERLAPPING_PEER,
        UNUSED_KEYS,
        TOKEN_OPTIONAL,
        UNUSED_ISSUER,
        FAILS_OPEN,
    ];
}
