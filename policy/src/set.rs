//! All policies of a mesh, read and checked: taken whole or refused whole.
//!
//! A set is immutable. [`PolicySet::compile`] picks what concerns one workload; the rules themselves are compiled once
//! here and shared. The caller keeps its last good set when a new one is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest;
use serde::{Serialize, Serializer};

use crate::authorizer::ExternalAuthorizer;
use crate::compared::hash;
use crate::decision::{PolicyInfo, PolicyRef};
use crate::diagnostic::{Diagnostics, code};
use crate::document::{DefaultAction, Document, Settings, Workload};
use crate::jwt::RequestAuthentication;
use crate::kinds::{self, AuthorizationPolicy, Context, Object, Read, Target};
use crate::limit::RateLimit;
use crate::mtls::PeerAuthentication;
use crate::rule::Action;
use crate::workload_policy::{WorkloadPolicy, reference};
use crate::yaml::{self, At};

/// Rules of a set, all objects together.
const MAX_RULES: usize = 100_000;
/// Values of all their fields. Those of `not…` fields are compared with every request.
const MAX_VALUES: usize = 500_000;

/// Names the content of a set: documents and settings, not the order or names of files. The first 64 bits of a
/// SHA-256, printed as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

/// A text that is not 16 hexadecimal digits in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a generation is written as 16 hexadecimal digits in lower case")]
pub struct BadGeneration;

impl FromStr for Generation {
    type Err = BadGeneration;

    fn from_str(text: &str) -> Result<Self, BadGeneration> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 16 || !text.bytes().all(is_digit) {
            return Err(BadGeneration);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| BadGeneration)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generation({self})")
    }
}

impl Serialize for Generation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A checked set of policies.
#[derive(Debug)]
pub struct PolicySet {
    settings: Settings,
    generation: Generation,
    warnings: Diagnostics,
    documents: Vec<(Document, Concerns)>,
    authorization: Vec<Arc<AuthorizationPolicy>>,
    request: Vec<Arc<RequestAuthentication>>,
    /// Whom each RequestAuthentication concerns, and the hash of its text.
    token_rules: Vec<(Target, String)>,
    peer: Vec<Arc<PeerAuthentication>>,
    limits: Vec<RateLimit>,
    authorizers: BTreeMap<String, Arc<ExternalAuthorizer>>,
}

/// Which workloads get a document.
#[derive(Debug)]
enum Concerns {
    Selected(Target),
    /// Those whose CUSTOM policies name this authorizer.
    Naming(String),
}

impl PolicySet {
    /// Reads and checks documents. An error in one of them refuses the whole set; all problems of all documents are
    /// in the answer, warnings too.
    pub fn parse(documents: &[Document], settings: Settings) -> Result<Self, Diagnostics> {
        let context = Context::new(&settings);
        let mut diagnostics = Diagnostics::default();
        let mut objects: Vec<(Document, Object)> = Vec::new();
        let mut room = Room { rules: MAX_RULES, values: MAX_VALUES };
        let mut policies: Vec<&Document> = Vec::with_capacity(documents.len());
        'files: for file in documents {
            let (mut tests, mut others) = (false, false);
            for piece in yaml::split(file, &mut diagnostics) {
                match kinds::read(&piece, &context, &mut diagnostics) {
                    Some(Read::Policy(object)) => {
                        // Whatever comes after it would only take memory.
                        if !room.takes(&object, &mut diagnostics) {
                            break 'files;
                        }
                        objects.push((piece, object));
                        others = true;
                    }
                    Some(Read::Test) => tests = true,
                    None => others = true,
                }
            }
            // An edit of a file with nothing but tests is no other policy.
            if others || !tests {
                policies.push(file);
            }
        }
        // In the order of names, so that nothing depends on the order of files.
        objects.sort_by(|(_, a), (_, b)| order(a).cmp(&order(b)));
        refuse_duplicates(&objects, &mut diagnostics);
        let generation = generation(&policies, &settings);
        let mut set = Self {
            settings,
            generation,
            warnings: Diagnostics::default(),
            documents: Vec::with_capacity(objects.len()),
            authorization: Vec::new(),
            request: Vec::new(),
            token_rules: Vec::new(),
            peer: Vec::new(),
            limits: Vec::new(),
            authorizers: BTreeMap::new(),
        };
        for (document, object) in objects {
            if matches!(object, Object::Request(_))
                && let Some(target) = object.target()
            {
                let hash = hash(&[document.text.trim().as_bytes()]);
                set.token_rules.push((target.clone(), hash));
            }
            let concerns = match object.target() {
                Some(target) => Concerns::Selected(target.clone()),
                None => Concerns::Naming(object.info().name.clone()),
            };
            set.documents.push((document, concerns));
            match object {
                Object::Authorization(policy) => set.authorization.push(Arc::new(policy)),
                Object::Request(policy) => set.request.push(Arc::new(policy)),
                Object::Peer(policy) => set.peer.push(Arc::new(policy)),
                Object::Limit(policy) => set.limits.push(policy),
                Object::Authorizer(authorizer) => {
                    set.authorizers.insert(authorizer.name().to_owned(), authorizer);
                }
            }
        }
        check_levels(&set.peer, &mut diagnostics);
        check_providers(&set, &mut diagnostics);
        diagnostics.sort();
        if diagnostics.has_errors() {
            return Err(diagnostics);
        }
        set.warnings = diagnostics;
        Ok(set)
    }

    /// The content hash of documents and settings.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The same set under the name that its sender gives it.
    ///
    /// A proxy holds only the documents that concern it; so that its records name the generation of the whole mesh, it
    /// takes over the control plane's.
    #[must_use]
    pub fn with_generation(self, generation: Generation) -> Self {
        Self { generation, ..self }
    }

    /// The settings that it was read with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is allowed but may not mean what its author thinks.
    pub fn warnings(&self) -> &Diagnostics {
        &self.warnings
    }

    /// The rules of its AuthorizationPolicies, in the order of the policies' names.
    pub fn rules(&self) -> impl Iterator<Item = PolicyRef> {
        self.authorization
            .iter()
            .flat_map(|policy| policy.rules.iter().map(|rule| reference(policy, Some(rule))))
    }

    /// How many policies it holds.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Its documents, one for each object, in the order of kinds and names.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.documents.iter().map(|(document, _)| document)
    }

    /// Every document but those of the ALLOW policies that are enforced: what a new set of them is put beside.
    pub fn documents_but_allow(&self) -> Vec<Document> {
        let is_within = |document: &Document, info: &PolicyInfo| {
            let lines = u32::try_from(document.text.lines().count()).unwrap_or(u32::MAX);
            let end = document.first_line.saturating_add(lines);
            document.file == info.file && (document.first_line..end).contains(&info.line)
        };
        let allows: Vec<_> = self
            .authorization
            .iter()
            .filter(|policy| policy.action == Action::Allow && !policy.dry_run)
            .collect();
        let is_allow =
            |document: &&Document| allows.iter().any(|policy| is_within(document, &policy.info));
        self.documents().filter(|document| !is_allow(document)).cloned().collect()
    }

    /// The documents that can concern a workload, in a stable order: those of its namespace and of the root namespace
    /// whose selectors match, and the authorizers that they name.
    pub fn documents_for(&self, workload: &Workload) -> Vec<Document> {
        let names = |name: &str| {
            let mut policies = self.authorization.iter().filter(|p| p.target.selects(workload));
            policies.any(|p| p.provider.as_ref().is_some_and(|provider| *provider.name == *name))
        };
        self.documents
            .iter()
            .filter(|(_, concerns)| match concerns {
                Concerns::Selected(target) => target.selects(workload),
                Concerns::Naming(authorizer) => names(authorizer),
            })
            .map(|(document, _)| document.clone())
            .collect()
    }

    /// What holds for one workload.
    pub fn compile(&self, workload: &Workload) -> WorkloadPolicy {
        WorkloadPolicy::compile(self, workload)
    }

    /// Whom its objects concern.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Target> {
        self.documents.iter().filter_map(|(_, concerns)| match concerns {
            Concerns::Selected(target) => Some(target),
            Concerns::Naming(_) => None,
        })
    }

    pub(crate) fn authorization(&self) -> &[Arc<AuthorizationPolicy>] {
        &self.authorization
    }

    pub(crate) fn request(&self) -> &[Arc<RequestAuthentication>] {
        &self.request
    }

    /// Names the content of the RequestAuthentications that select a workload; none if none does.
    pub(crate) fn token_rules(&self, workload: &Workload) -> Option<String> {
        let selecting = self.token_rules.iter().filter(|(target, _)| target.selects(workload));
        let hashes: Vec<&[u8]> = selecting.map(|(_, hash)| hash.as_bytes()).collect();
        (!hashes.is_empty()).then(|| hash(&hashes))
    }

    pub(crate) fn peer(&self) -> &[Arc<PeerAuthentication>] {
        &self.peer
    }

    pub(crate) fn limits(&self) -> &[RateLimit] {
        &self.limits
    }

    pub(crate) fn authorizer(&self, name: &str) -> Option<&Arc<ExternalAuthorizer>> {
        self.authorizers.get(name)
    }
}

/// How much more is read.
struct Room {
    rules: usize,
    values: usize,
}

impl Room {
    /// Makes room for an object; false if there is too little, which has been reported.
    fn takes(&mut self, object: &Object, diagnostics: &mut Diagnostics) -> bool {
        let (rules, values) = object.size();
        let left = self.rules.checked_sub(rules).zip(self.values.checked_sub(values));
        if let Some((rules, values)) = left {
            *self = Self { rules, values };
            return true;
        }
        let info = object.info();
        diagnostics.error(
            &info.file,
            At { line: info.line, column: 1 },
            code::TOO_MANY,
            format!(
                "with {} {} the set has more than the {MAX_RULES} rules or {MAX_VALUES} values that are read",
                object.kind(),
                info.full
            ),
            "take out policies of workloads that are gone; write prefixes or templates instead of single values",
        );
        false
    }
}

fn order(object: &Object) -> (&'static str, &str, &str, &str, u32) {
    let info = object.info();
    (object.kind(), &info.namespace, &info.name, &info.file, info.line)
}

fn refuse_duplicates(objects: &[(Document, Object)], diagnostics: &mut Diagnostics) {
    for pair in objects.windows(2) {
        let [(_, first), (_, second)] = pair else { continue };
        if first.kind() == second.kind() && first.info().full == second.info().full {
            let (first, info) = (first.info(), second.info());
            diagnostics.error(
                &info.file,
                At { line: info.line, column: 1 },
                code::DUPLICATE_OBJECT,
                format!("{} {} is defined twice", second.kind(), info.full),
                format!("rename one of them; the other is at {}:{}", first.file, first.line),
            );
        }
    }
}

/// Several PeerAuthentications for the mesh, a namespace or one selector contradict each other; Istio lets the oldest
/// win, and files have no age.
fn check_levels(policies: &[Arc<PeerAuthentication>], diagnostics: &mut Diagnostics) {
    for (index, policy) in policies.iter().enumerate() {
        for other in policies.iter().take(index) {
            if policy.target.namespace != other.target.namespace || policy.level() != other.level()
            {
                continue;
            }
            let (info, at) = (&policy.info, At { line: policy.info.line, column: 1 });
            let place = format!("{}:{}", other.info.file, other.info.line);
            if policy.target.labels == other.target.labels {
                diagnostics.error(
                    &info.file,
                    at,
                    code::AMBIGUOUS_PEER,
                    format!(
                        "PeerAuthentication {} selects the same workloads as {} ({place})",
                        info.full, other.info.full
                    ),
                    "keep one of them for the mesh, for a namespace or for a selector",
                );
            } else if policy.target.labels_may_meet(&other.target)
                && !info.ignored.contains(&code::OVERLAPPING_PEER)
            {
                diagnostics.warning(
                    &info.file,
                    at,
                    code::OVERLAPPING_PEER,
                    format!(
                        "a workload may be selected by PeerAuthentication {} and {} ({place}); the stricter mode wins",
                        info.full, other.info.full
                    ),
                    "make the selectors exclude each other",
                );
            }
        }
    }
}

/// Every CUSTOM policy names an authorizer of the set, and those that may select one workload the same: of two, neither
/// could speak for the other. Istio denies all that such policies match.
fn check_providers(set: &PolicySet, diagnostics: &mut Diagnostics) {
    let custom = set.authorization.iter().filter_map(|p| Some((p, p.provider.as_ref()?)));
    let custom: Vec<_> = custom.collect();
    for (index, (policy, provider)) in custom.iter().enumerate() {
        if !set.authorizers.contains_key(&*provider.name) {
            let known: Vec<&str> = set.authorizers.keys().map(String::as_str).collect();
            let help = match (crate::fields::closest(&provider.name, &known), known.is_empty()) {
                (Some(name), _) => format!("did you mean `{name}`?"),
                (None, false) => format!("there are {}", crate::fields::list(&known)),
                (None, true) => {
                    "add an object of kind ExternalAuthorizer (picket.dev/v1alpha1) with that name"
                        .to_owned()
                }
            };
            let message = format!("no ExternalAuthorizer is called `{}`", provider.name);
            diagnostics.error(&policy.info.file, provider.at, code::CUSTOM_ACTION, message, help);
        }
        let other = custom.iter().take(index).find(|(other, its)| {
            its.name != provider.name && other.target.may_meet(&policy.target)
        });
        if let Some((other, its)) = other {
            diagnostics.error(
                &policy.info.file,
                provider.at,
                code::TWO_PROVIDERS,
                format!(
                    "a workload may be selected by this policy and by {} ({}:{}), which asks `{}`",
                    other.info.full, other.info.file, its.at.line, its.name
                ),
                "name one authorizer in both, or make the selectors exclude each other",
            );
        }
    }
}

fn generation(documents: &[&Document], settings: &Settings) -> Generation {
    let mut texts: Vec<&[u8]> = documents.iter().map(|document| document.text.as_bytes()).collect();
    texts.sort_unstable();
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut part = |bytes: &[u8]| {
        // The length keeps parts apart: no text can pass for two.
        hash.update(&(bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(b"picket-policy/1");
    part(match settings.default_action {
        DefaultAction::Allow => b"allow",
        DefaultAction::Deny => b"deny",
    });
    part(settings.default_mtls.as_str().as_bytes());
    part(settings.root_namespace.as_bytes());
    part(settings.trust_domain.as_deref().unwrap_or_default().as_bytes());
    part(settings.trust_domain_aliases.join(",").as_bytes());
    texts.into_iter().for_each(&mut part);
    let mut bytes = [0; 8];
    for (byte, digit) in bytes.iter_mut().zip(hash.finish().as_ref()) {
        *byte = *digit;
    }
    Generation(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_set_may_hold_is_counted_over_all_objects() {
        let yaml = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n\
                    spec: {rules: [{from: [{source: {namespaces: [a, b]}}]}, {to: [{operation: {ports: ['1']}}]}]}\n";
        let document = Document::whole("a.yaml", yaml);
        let mut diagnostics = Diagnostics::default();
        let context = Context::new(&Settings::default());
        let read = kinds::read(&document, &context, &mut diagnostics);
        let Some(Read::Policy(object)) = read else { panic!("{diagnostics}") };
        for (rules, values, twice) in [(4, 6, true), (3, 6, false), (4, 5, false)] {
            let mut room = Room { rules, values };
            assert!(room.takes(&object, &mut diagnostics));
            assert!(!diagnostics.has_errors());
            assert_eq!(room.takes(&object, &mut diagnostics), twice);
            assert_eq!(diagnostics.iter().any(|d| d.code == code::TOO_MANY), !twice);
            diagnostics = Diagnostics::default();
        }
    }
}
