//! What a rule can be found by: the attributes, and the keys that its fields make of their values.

use std::net::IpAddr;

use http::HeaderName;
use http::header::{COOKIE, HOST};
use ipnet::IpNet;

use super::Found;
use super::tree::SEGMENT;
use crate::attributes::{Attributes, Http};
use crate::matcher::{Glob, PathForm, PathMatch, StringMatch};
use crate::rule::{Clause, Rule, Test};

/// Bytes of a key; what a longer value has beyond them does not tell rules apart.
const MAX_KEY: usize = 256;
/// Wildcards for a segment in one key: a path can take either way at each of them.
const MAX_SEGMENTS: usize = 8;
/// Keys of a rule beyond which a further field is not looked at, see [`covers`].
const MAX_COVERS: usize = 32;

/// What a rule can be found by, in the order in which one is taken where nothing else says which is the best.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Attribute {
    Path,
    Principal,
    Subject,
    Namespace,
    Host,
    Header(HeaderName),
    Claim(Box<[Box<str>]>),
    SourceIp,
    RemoteIp,
    DestinationIp,
    Issuer,
    TrustDomain,
    Sni,
    Port,
    Method,
}

/// Which part of a value the key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Whole,
    Start,
    End,
    Any,
}

/// What a value of the attribute must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) attribute: Attribute,
    pub(super) part: Part,
    /// In the order in which a tree is walked: backwards for [`Part::End`].
    pub(super) text: Box<[u8]>,
}

/// Keys of which a request must have one for the rule to match.
pub(super) type Cover = Vec<Key>;

/// The ways in which a rule can be found; none if it must always be tried. On raw TCP (`raw`) the HTTP fields of a rule
/// that denies are left out.
pub(super) fn covers(rule: &Rule, raw: bool) -> Vec<Cover> {
    let mut covers = groups(&rule.to, raw);
    covers.extend(groups(&rule.from, raw));
    covers.extend(rule.when.iter().filter_map(|clause| keys(clause, raw)));
    covers.truncate(MAX_COVERS);
    covers
}

/// The ways in which a rule can be found by its caller.
pub(super) fn callers(rule: &Rule) -> Vec<Cover> {
    groups(&rule.from, false)
}

/// Any of the groups must hold, so a cover takes a field from each. The first takes the best one of each, the second the
/// second best, and so on.
fn groups(groups: &[Box<[Clause]>], raw: bool) -> Vec<Cover> {
    let mut choices: Vec<Vec<Cover>> = Vec::with_capacity(groups.len());
    for clauses in groups {
        let mut choice: Vec<Cover> =
            clauses.iter().filter_map(|clause| keys(clause, raw)).collect();
        choice.sort_by_key(|keys| keys.first().map(|key| key.attribute.rank()));
        if choice.is_empty() {
            return Vec::new();
        }
        choices.push(choice);
    }
    if let [choice] = choices.as_mut_slice() {
        return std::mem::take(choice);
    }
    let most = choices.iter().map(Vec::len).max().unwrap_or_default();
    let take = |choice: &Vec<Cover>, nth: usize| choice.get(nth).or(choice.last()).cloned();
    (0..most)
        .map(|nth| choices.iter().filter_map(|choice| take(choice, nth)).flatten().collect())
        .collect()
}

/// The keys of a field; none if a request without any of them may match it.
fn keys(clause: &Clause, raw: bool) -> Option<Cover> {
    if clause.negated || (raw && clause.test.needs_http()) {
        return None;
    }
    let strings = |attribute: &Attribute, values: &[StringMatch]| -> Cover {
        values.iter().map(|value| Key::pattern(attribute, value)).collect()
    };
    Some(match &clause.test {
        Test::Principal(values) => strings(&Attribute::Principal, values),
        Test::TrustDomain(values) => strings(&Attribute::TrustDomain, values),
        Test::Sni(values) => strings(&Attribute::Sni, values),
        Test::Method(values) => strings(&Attribute::Method, values),
        Test::Host(values) => strings(&Attribute::Host, values),
        Test::Header(name, values) => strings(&Attribute::Header(name.clone()), values),
        Test::Claim(path, values) => strings(&Attribute::Claim(path.clone()), values),
        Test::Namespace(values) => values.iter().map(Key::glob).collect(),
        Test::ServiceAccount(values) => values
            .iter()
            .map(|account| {
                let end = format!("/ns/{}/sa/{}", account.namespace, account.name);
                Key::new(Attribute::Principal, Part::End, end.bytes())
            })
            .collect(),
        Test::RequestPrincipal(values) => values
            .iter()
            .map(|value| match &value.subject {
                StringMatch::Present => Key::pattern(&Attribute::Issuer, &value.issuer),
                subject => Key::pattern(&Attribute::Subject, subject),
            })
            .collect(),
        Test::SourceIp(blocks) => {
            blocks.iter().map(|b| Key::block(Attribute::SourceIp, b)).collect()
        }
        Test::RemoteIp(blocks) => {
            blocks.iter().map(|b| Key::block(Attribute::RemoteIp, b)).collect()
        }
        Test::DestinationIp(blocks) => {
            blocks.iter().map(|b| Key::block(Attribute::DestinationIp, b)).collect()
        }
        Test::Port(ports) => ports
            .iter()
            .map(|port| Key::new(Attribute::Port, Part::Whole, nibbles(port.to_be_bytes())))
            .collect(),
        Test::Path(values) => values.iter().map(Key::path).collect(),
    })
}

impl Key {
    fn new(
        attribute: Attribute,
        part: Part,
        bytes: impl DoubleEndedIterator<Item = u8> + Clone,
    ) -> Self {
        let mut text: Vec<u8> = match part {
            Part::End => bytes.rev().take(MAX_KEY + 1).collect(),
            _ => bytes.take(MAX_KEY + 1).collect(),
        };
        let is_cut = text.len() > MAX_KEY;
        text.truncate(MAX_KEY);
        let part = if is_cut && part == Part::Whole { Part::Start } else { part };
        Self { attribute, part, text: text.into() }
    }

    fn any(attribute: Attribute) -> Self {
        Self { attribute, part: Part::Any, text: Box::default() }
    }

    fn pattern(attribute: &Attribute, pattern: &StringMatch) -> Self {
        let (part, text) = match pattern {
            StringMatch::Exact(text) => (Part::Whole, text),
            StringMatch::Prefix(text) => (Part::Start, text),
            StringMatch::Suffix(text) => (Part::End, text),
            StringMatch::Present => return Self::any(attribute.clone()),
        };
        let bytes = text.bytes();
        match attribute {
            Attribute::Host => Self::new(Attribute::Host, part, fold(bytes)),
            attribute => Self::new(attribute.clone(), part, bytes),
        }
    }

    fn glob(glob: &Glob) -> Self {
        let (part, text) = match glob.ends() {
            (whole, None) => (Part::Whole, whole),
            ("", Some("")) => return Self::any(Attribute::Namespace),
            ("", Some(end)) => (Part::End, end),
            (start, Some(_)) => (Part::Start, start),
        };
        Self::new(Attribute::Namespace, part, text.bytes())
    }

    fn block(attribute: Attribute, block: &IpNet) -> Self {
        let known = 1 + usize::from(block.prefix_len() / 4);
        let mut key = match block.network() {
            IpAddr::V4(address) => Self::new(attribute, Part::Start, tagged(4, address.octets())),
            IpAddr::V6(address) => Self::new(attribute, Part::Start, tagged(6, address.octets())),
        };
        key.text = key.text.iter().copied().take(known).collect();
        key
    }

    fn path(pattern: &PathMatch) -> Self {
        let template = match pattern.form() {
            PathForm::Text(text) => return Self::pattern(&Attribute::Path, text),
            PathForm::Template(template) => template,
        };
        let (head, tail) = template.parts();
        let literals: usize = head.iter().map(|literal| literal.len()).sum();
        if let Some(tail) = tail.filter(|tail| tail.len() > literals) {
            return Self::new(Attribute::Path, Part::End, tail.bytes());
        }
        let mut bytes = Vec::new();
        let mut is_cut = false;
        for (nth, literal) in head.iter().enumerate() {
            if nth > MAX_SEGMENTS {
                is_cut = true;
                break;
            }
            if nth > 0 {
                bytes.push(SEGMENT);
            }
            bytes.extend(literal.bytes());
        }
        let part = if is_cut || tail.is_some() { Part::Start } else { Part::Whole };
        Self::new(Attribute::Path, part, bytes.into_iter())
    }
}

impl Attribute {
    /// The lower, the better it usually tells rules apart.
    fn rank(&self) -> u8 {
        match self {
            Self::Path => 0,
            Self::Principal => 1,
            Self::Subject => 2,
            Self::Namespace => 3,
            Self::Host => 4,
            Self::Header(_) | Self::Claim(_) => 5,
            Self::SourceIp | Self::RemoteIp | Self::DestinationIp => 6,
            Self::Issuer => 7,
            Self::TrustDomain | Self::Sni | Self::Port => 8,
            Self::Method => 9,
        }
    }

    /// Hands over every value that the request has of it; none where it is absent or unknown, for then no field that
    /// asks for a value matches.
    pub(super) fn read(&self, attributes: &Attributes<'_>, found: &mut Found<'_, '_>) {
        let peer = attributes.peer;
        match self {
            Self::Principal => found.text(peer.map(|peer| peer.as_str())),
            Self::Namespace => found.text(peer.map(|peer| peer.namespace())),
            Self::TrustDomain => found.text(peer.map(|peer| peer.trust_domain())),
            Self::Sni => found.text(attributes.sni),
            Self::SourceIp => read_address(attributes.source_ip, found),
            Self::RemoteIp => read_address(attributes.remote_ip, found),
            Self::DestinationIp => read_address(attributes.destination_ip, found),
            Self::Port => {
                if let Some(port) = attributes.destination_port {
                    found.value(nibbles(port.to_be_bytes()));
                }
            }
            _ => {
                if let Some(http) = &attributes.http {
                    self.read_http(http, found);
                }
            }
        }
    }

    fn read_http(&self, http: &Http<'_>, found: &mut Found<'_, '_>) {
        match self {
            Self::Path => found.text(Some(http.path)),
            Self::Method => found.text(Some(http.method.as_str())),
            Self::Host => {
                if let Some(host) = http.host {
                    found.value(fold(host.bytes()));
                }
            }
            Self::Issuer => found.text(http.token.and_then(|token| token.claim_text("iss"))),
            Self::Subject => found.text(http.token.and_then(|token| token.claim_text("sub"))),
            Self::Header(name) => read_header(http, name, found),
            Self::Claim(path) => {
                for text in http.token.into_iter().flat_map(|token| token.claim_texts(path)) {
                    found.text(Some(text));
                }
            }
            _ => {}
        }
    }
}

fn read_address(address: Option<IpAddr>, found: &mut Found<'_, '_>) {
    match address.map(|address| address.to_canonical()) {
        Some(IpAddr::V4(address)) => found.value(tagged(4, address.octets())),
        Some(IpAddr::V6(address)) => found.value(tagged(6, address.octets())),
        None => {}
    }
}

/// The values that a rule compares, as `matches_header` in [`crate::rule`] has it.
fn read_header(http: &Http<'_>, name: &HeaderName, found: &mut Found<'_, '_>) {
    if name == HOST {
        return found.text(http.host);
    }
    let lines = &http.headers.get_all(name);
    if name != COOKIE {
        for line in lines {
            found.value(line.as_bytes().iter().copied());
        }
        return;
    }
    let line = move |nth: usize| lines.iter().nth(nth).map(|line| line.as_bytes());
    let Some(first) = line(0) else { return };
    let rest =
        (1..lines.iter().count()).filter_map(line).flat_map(move |line| b"; ".iter().chain(line));
    found.value(first.iter().chain(rest).copied());
}

fn fold(
    bytes: impl DoubleEndedIterator<Item = u8> + Clone,
) -> impl DoubleEndedIterator<Item = u8> + Clone {
    bytes.map(|byte| byte.to_ascii_lowercase())
}

/// Half-bytes, so that a range of addresses is a beginning of them.
fn nibbles<const N: usize>(octets: [u8; N]) -> impl DoubleEndedIterator<Item = u8> + Clone {
    octets.into_iter().flat_map(|octet| [octet >> 4, octet & 15])
}

/// Addresses of the two families are never equal.
fn tagged<const N: usize>(
    family: u8,
    octets: [u8; N],
) -> impl DoubleEndedIterator<Item = u8> + Clone {
    std::iter::once(family).chain(nibbles(octets))
}
