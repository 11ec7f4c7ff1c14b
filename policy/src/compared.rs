//! What rules compare and no record holds: what came of each comparison, in words that can be recorded.
//!
//! Values of headers and claims stay out of records, so that a decision that read one could never be made again. What a
//! record can hold is whether the value matched a pattern of the policies: that says no more of a request than the rule
//! that decided it does. A pattern is named by a hash of its own text; nothing of a request's value gets in. Of headers
//! that carry credentials only their presence is noted.

use std::sync::Arc;

use aws_lc_rs::digest;
use http::header::HOST;

use crate::attributes::Attributes;
use crate::explanation::is_secret;
use crate::kinds::AuthorizationPolicy;
use crate::rule::{Outcome, Test, Values};

/// Patterns of one workload whose outcome is noted; a record has to stay small.
const MAX_PATTERNS: usize = 32;

/// The comparisons that the rules of one workload make and that have to be noted.
#[derive(Debug, Default)]
pub(crate) struct Comparisons {
    subjects: Vec<Subject>,
}

/// One attribute, and the patterns it is compared with.
#[derive(Debug)]
struct Subject {
    name: String,
    /// A test of it with no value, to ask for its presence.
    test: Test,
    absent: Arc<str>,
    present: Arc<str>,
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    test: Test,
    matched: Arc<str>,
    missed: Arc<str>,
}

impl Comparisons {
    pub(crate) fn compile<'p>(
        policies: impl Iterator<Item = &'p Arc<AuthorizationPolicy>>,
    ) -> Self {
        let mut all = Self::default();
        let mut left = MAX_PATTERNS;
        for clause in policies.flat_map(|policy| &policy.rules).flat_map(|rule| rule.clauses()) {
            if left == 0 {
                break;
            }
            let Some(name) = subject(&clause.test) else { continue };
            for (text, test) in patterns(&clause.test) {
                let Some(subject) = all.subject(&name, &clause.test) else { continue };
                let matched: Arc<str> = matched(&name, &text).into();
                if subject.patterns.iter().any(|known| known.matched == matched) || left == 0 {
                    continue;
                }
                left -= 1;
                let missed = missed(&name, &text).into();
                subject.patterns.push(Pattern { test, matched, missed });
            }
            if matches!(&clause.test, Test::Header(name, _) if is_secret(name)) {
                all.subject(&name, &clause.test);
            }
        }
        all
    }

    fn subject(&mut self, name: &str, test: &Test) -> Option<&mut Subject> {
        if !self.subjects.iter().any(|subject| subject.name == name) {
            if self.subjects.len() == MAX_PATTERNS {
                return None;
            }
            self.subjects.push(Subject {
                name: name.to_owned(),
                test: bare(test)?,
                absent: absent(name).into(),
                present: present(name).into(),
                patterns: Vec::new(),
            });
        }
        self.subjects.iter_mut().find(|subject| subject.name == name)
    }

    /// What came of them for one request. Allocates only if there are any.
    pub(crate) fn of(&self, attributes: &Attributes<'_>) -> Vec<Arc<str>> {
        let most = self.subjects.iter().map(|subject| subject.patterns.len().max(1)).sum();
        let mut noted = Vec::with_capacity(most);
        for Subject { test, absent, present, patterns, .. } in &self.subjects {
            match is_there(test, attributes) {
                None => {}
                Some(false) => noted.push(Arc::clone(absent)),
                Some(true) if patterns.is_empty() => noted.push(Arc::clone(present)),
                Some(true) => {
                    noted.extend(patterns.iter().map(
                        |pattern| match pattern.test.run(attributes) {
                            Outcome::Match => Arc::clone(&pattern.matched),
                            _ => Arc::clone(&pattern.missed),
                        },
                    ))
                }
            }
        }
        noted
    }
}

/// Whether the attribute of a test is there; none if that need not be noted.
fn is_there(test: &Test, attributes: &Attributes<'_>) -> Option<bool> {
    match test {
        Test::Header(name, _) => Some(attributes.http?.headers.contains_key(name)),
        // Without a token there are no claims: the record shows that there was none.
        Test::Claim(path, _) => Some(attributes.http?.token?.claim(path).is_some()),
        Test::RequestPrincipal(_) => {
            let token = attributes.http?.token?;
            Some(token.issuer().is_some() && token.subject().is_some())
        }
        Test::Sni(_) => Some(attributes.sni.is_some()),
        _ => Some(true),
    }
}

/// The name under which the comparisons of a test are noted; none if records hold what it reads.
pub(crate) fn subject(test: &Test) -> Option<String> {
    match test {
        Test::Header(name, _) if name != HOST => Some(format!("request.headers[{name}]")),
        Test::Claim(path, _) => {
            let path: Vec<&str> = path.iter().map(|name| &**name).collect();
            match path.as_slice() {
                ["iss" | "aud" | "azp"] => None,
                path => Some(format!("request.auth.claims[{}]", path.join("]["))),
            }
        }
        Test::RequestPrincipal(_) => Some("request.auth.principal".to_owned()),
        Test::Sni(_) => Some("connection.sni".to_owned()),
        Test::DestinationIp(_) => Some("destination.ip".to_owned()),
        _ => None,
    }
}

/// The patterns of a test whose outcome is to be noted: each as it is written, and as a test of its own.
fn patterns(test: &Test) -> Vec<(String, Test)> {
    match test {
        Test::Header(name, _) if is_secret(name) => Vec::new(),
        Test::Header(name, values) => {
            let one = |v: &_| Test::Header(name.clone(), [Clone::clone(v)].into());
            values.iter().map(|v| (v.to_string(), one(v))).collect()
        }
        Test::Claim(path, values) => {
            let one = |v: &_| Test::Claim(path.clone(), [Clone::clone(v)].into());
            values.iter().map(|v| (v.to_string(), one(v))).collect()
        }
        Test::RequestPrincipal(values) => {
            let one = |v: &_| Test::RequestPrincipal([Clone::clone(v)].into());
            values.iter().map(|v| (v.to_string(), one(v))).collect()
        }
        Test::Sni(values) => {
            values.iter().map(|v| (v.to_string(), Test::Sni([v.clone()].into()))).collect()
        }
        Test::DestinationIp(blocks) => {
            blocks.iter().map(|b| (b.to_string(), Test::DestinationIp([*b].into()))).collect()
        }
        _ => Vec::new(),
    }
}

fn bare(test: &Test) -> Option<Test> {
    Some(match test {
        Test::Header(name, _) => Test::Header(name.clone(), Values::new()),
        Test::Claim(path, _) => Test::Claim(path.clone(), Values::new()),
        Test::RequestPrincipal(_) => Test::RequestPrincipal(Values::new()),
        Test::Sni(_) => Test::Sni(Values::new()),
        Test::DestinationIp(_) => Test::DestinationIp(Values::new()),
        _ => return None,
    })
}

/// What a record's notes say of one value of a test.
pub(crate) fn noted(notes: &[String], name: &str, pattern: &str) -> Option<bool> {
    let has = |note: String| notes.contains(&note);
    if has(absent(name)) || has(missed(name, pattern)) {
        Some(false)
    } else if has(matched(name, pattern)) {
        Some(true)
    } else {
        None
    }
}

/// What a record's notes say of the presence of an attribute.
pub(crate) fn noted_presence(notes: &[String], name: &str) -> Option<bool> {
    if notes.contains(&absent(name)) {
        return Some(false);
    }
    let names_it = |note: &String| {
        note.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '=', '!']))
    };
    notes.iter().any(names_it).then_some(true)
}

fn absent(name: &str) -> String {
    format!("{name} absent")
}

fn present(name: &str) -> String {
    format!("{name} present")
}

fn matched(name: &str, pattern: &str) -> String {
    format!("{name}={}", hash(&[name.as_bytes(), pattern.as_bytes()]))
}

fn missed(name: &str, pattern: &str) -> String {
    format!("{name}!{}", hash(&[name.as_bytes(), pattern.as_bytes()]))
}

/// The first 64 bits of a SHA-256 over parts, as 16 hexadecimal digits.
pub(crate) fn hash(parts: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let digest = context.finish();
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
