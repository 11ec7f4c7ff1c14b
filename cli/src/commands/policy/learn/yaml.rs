//! What was learnt, as Istio's YAML with the evidence as comments.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::evidence::{Callee, Caller, Evidence};
use super::paths::Tally;
use crate::exit::Failure;
use crate::output::counted;
use crate::recorded::{Mesh, seconds};

/// Rules of one policy; 512 are read.
const MAX_RULES: usize = 500;
/// Kinds of denied requests that a file names.
const MAX_DENIED: usize = 20;
/// Labels that change with each roll-out, so that a selector must not name them.
const OF_ROLL_OUTS: [&str; 5] = [
    "version",
    "pod-template-hash",
    "controller-revision-hash",
    "app.kubernetes.io/version",
    "helm.sh/chart",
];
/// Labels that name a workload, the first that is there.
const NAMES: [&str; 2] = ["app", "app.kubernetes.io/name"];

type Labels = BTreeMap<String, String>;
/// Patterns with their evidence, by method.
type ByMethod<'e> = BTreeMap<&'e str, BTreeMap<String, Tally>>;

/// One policy file.
#[derive(Debug, Serialize)]
pub(super) struct Learnt {
    pub(super) file: String,
    pub(super) text: String,
    /// What its reader should know.
    pub(super) remarks: Vec<String>,
}

/// A workload under a selector, whatever its other labels were.
struct Subject<'e> {
    namespace: &'e str,
    name: &'e str,
    selector: Labels,
    callees: Vec<&'e Callee>,
}

/// Writes one file for each called workload.
pub(super) fn write(evidence: &Evidence, mesh: &Mesh) -> Result<Vec<Learnt>, Failure> {
    let mut subjects: BTreeMap<(&str, &str, Labels), Subject<'_>> = BTreeMap::new();
    for (workload, callee) in &evidence.callees {
        let (namespace, name) = (workload.namespace.as_str(), workload.name.as_str());
        let selector = selector(&workload.labels);
        if selector.is_empty() && !callee.callers.is_empty() {
            return Err(Failure::Problems(format!(
                "{namespace}/{name} has no labels, so no policy can select it alone; give it one \
                 such as `workload.labels: {{app: {name}}}`"
            )));
        }
        let key = (namespace, name, selector.clone());
        let subject = Subject { namespace, name, selector, callees: Vec::new() };
        subjects.entry(key).or_insert(subject).callees.push(callee);
    }
    let mut names = BTreeSet::new();
    let mut learnt = Vec::new();
    for subject in subjects.values() {
        let rules = subject.rules();
        let remarks = subject.remarks(evidence, mesh);
        for (index, rules) in rules.chunks(MAX_RULES).enumerate() {
            let mut name = format!("learnt-{}", plain(subject.name));
            while !names.insert((subject.namespace, name.clone())) {
                name = format!("{name}-{}", index + 2);
            }
            let text = subject.text(&name, rules, &remarks);
            let file = format!("{}.{name}.yaml", subject.namespace);
            learnt.push(Learnt { file, text, remarks: remarks.clone() });
        }
    }
    Ok(learnt)
}

/// The labels by which a policy selects a workload through all its roll-outs.
fn selector(labels: &Labels) -> Labels {
    let of = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    if let Some((key, value)) = NAMES.iter().find_map(|name| labels.get_key_value(*name)) {
        return [of(key, value)].into();
    }
    let lasting = labels.iter().filter(|(key, _)| !OF_ROLL_OUTS.contains(&key.as_str()));
    lasting.map(|(key, value)| of(key, value)).collect()
}

impl Subject<'_> {
    /// Each rule as its lines.
    fn rules(&self) -> Vec<String> {
        let mut callers: BTreeMap<&Option<String>, Vec<&Caller>> = BTreeMap::new();
        for callee in &self.callees {
            for (principal, caller) in &callee.callers {
                callers.entry(principal).or_default().push(caller);
            }
        }
        callers.into_iter().flat_map(|(principal, callers)| rules_of(principal, &callers)).collect()
    }

    fn remarks(&self, evidence: &Evidence, mesh: &Mesh) -> Vec<String> {
        let recorded = evidence.callees.keys();
        let also: BTreeSet<String> = recorded
            .chain(&mesh.live)
            .filter(|other| other.namespace == self.namespace && other.name != self.name)
            .filter(|other| self.selector.iter().all(|(k, v)| other.labels.get(k) == Some(v)))
            .map(|other| format!("{}/{}", other.namespace, other.name))
            .collect();
        let (namespace, name) = (self.namespace, self.name);
        let remark = |other| {
            format!(
                "the selector of {namespace}/{name} also selects {other}, which so lets in the same callers"
            )
        };
        also.into_iter().map(remark).collect()
    }

    fn text(&self, name: &str, rules: &[String], remarks: &[String]) -> String {
        let mut text = String::new();
        let mut line = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        line(
            "# Learnt from what was recorded. It replaces the ALLOW policies of the workload; all else stays.",
        );
        for remark in remarks {
            line(&format!("# Note: {remark}."));
        }
        line("apiVersion: security.istio.io/v1");
        line("kind: AuthorizationPolicy");
        line(&format!(
            "metadata: {{name: {}, namespace: {}}}",
            quoted(name),
            quoted(self.namespace)
        ));
        line("spec:");
        line("  selector:");
        line("    matchLabels:");
        for (key, value) in &self.selector {
            line(&format!("      {}: {}", quoted(key), quoted(value)));
        }
        line("  action: ALLOW");
        line("  rules:");
        for rule in rules {
            line(rule.trim_end());
        }
        let mut denied = Callee::default();
        self.callees.iter().for_each(|callee| denied.merge(callee));
        let mut denied: Vec<_> = denied.denied.iter().collect();
        denied.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.count));
        if !denied.is_empty() {
            line("# Denied, and so not learnt:");
        }
        for (words, tally) in denied.iter().take(MAX_DENIED) {
            line(&format!("#   {}: {}", comment(words), evidence_words(tally)));
        }
        if denied.len() > MAX_DENIED {
            line(&format!("#   and {} other kinds", denied.len() - MAX_DENIED));
        }
        text
    }
}

/// The rules of one caller: one for each set of tokens that it showed, one for raw TCP.
fn rules_of(principal: &Option<String>, callers: &[&Caller]) -> Vec<String> {
    let who = match principal {
        Some(principal) => format!("principals: [{}]", quoted(principal)),
        // Nobody with an identity.
        None => "notPrincipals: [\"*\"]".to_owned(),
    };
    // By demanded issuers, then by method: patterns with their evidence.
    let mut demands: BTreeMap<Option<Vec<String>>, ByMethod<'_>> = BTreeMap::new();
    for (method, paths) in callers.iter().flat_map(|caller| &caller.methods) {
        for (pattern, seen) in paths.patterns() {
            let methods = demands.entry(seen.demanded()).or_default();
            let tally = methods.entry(method.as_str()).or_default().entry(pattern).or_default();
            tally.merge(&seen.tally);
        }
    }
    let mut rules = Vec::new();
    let head = |text: &mut String, tally: &Tally| {
        let name = principal.as_deref().unwrap_or("callers without an identity");
        text.push_str(&format!("  # {}: {}\n", comment(name), evidence_words(tally)));
        text.push_str(&format!("  - from:\n    - source:\n        {who}\n"));
    };
    for (issuers, methods) in demands {
        let (mut text, mut tally) = (String::new(), Tally::default());
        methods.values().flat_map(BTreeMap::values).for_each(|one| tally.merge(one));
        head(&mut text, &tally);
        if let Some(issuers) = issuers {
            let all: Vec<String> =
                issuers.iter().map(|issuer| quoted(&format!("{issuer}/*"))).collect();
            text.push_str(&format!("        requestPrincipals: [{}]\n", all.join(", ")));
        }
        text.push_str("    to:\n");
        for (method, patterns) in methods {
            text.push_str(&format!("    - operation:\n        methods: [{}]\n", quoted(method)));
            text.push_str("        paths:\n");
            for (pattern, tally) in patterns {
                let evidence = evidence_words(&tally);
                text.push_str(&format!("        - {}  # {evidence}\n", quoted(&pattern)));
            }
        }
        rules.push(text);
    }
    let mut ports: BTreeMap<u16, Tally> = BTreeMap::new();
    for (port, tally) in callers.iter().flat_map(|caller| &caller.ports) {
        ports.entry(*port).or_default().merge(tally);
    }
    for (port, tally) in ports {
        let mut text = String::new();
        head(&mut text, &tally);
        let evidence = evidence_words(&tally);
        text.push_str(&format!(
            "    to:\n    - operation:\n        ports: [\"{port}\"]  # {evidence}\n"
        ));
        rules.push(text);
    }
    rules
}

fn evidence_words(tally: &Tally) -> String {
    let (first, last) = (seconds(&tally.first), seconds(&tally.last));
    let count = counted(usize::try_from(tally.count).unwrap_or(usize::MAX), "request");
    format!("{count}, first {first}, last {last}")
}

/// A string in YAML's double quotes, whose escapes JSON's are.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A text that stays in its comment.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A name that Kubernetes takes.
fn plain(name: &str) -> String {
    let keep = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9') => c,
        _ => '-',
    };
    let name: String = name.chars().map(keep).collect();
    name.trim_matches('-').to_owned()
}
