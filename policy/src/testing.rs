//! Tests of policies: requests, and what shall come of them. `picket policy test`.
//!
//! A `PolicyTest` (`picket.dev/v1alpha1`) may lie among the policies: sets pass over it, so that no proxy sees it and no
//! generation depends on it. Here it is read, as strictly as any kind, and answers are compared with what was expected;
//! finding files and printing is the caller's.

use std::fmt;
use std::sync::Arc;

use crate::decision::{Stage, Verdict};
use crate::diagnostic::Diagnostics;
use crate::document::{Document, Settings};
use crate::explain::{Answer, Place, Request};
use crate::kinds;

mod coverage;

pub use coverage::{Coverage, CoveredRule};

/// A `PolicyTest` object.
#[derive(Clone, Debug)]
pub struct PolicyTest {
    /// `metadata.name`.
    pub name: String,
    /// The file that it stands in.
    pub file: Arc<str>,
    /// The directory of the policies as written, meant from where the file is; absent: beside the file.
    pub policies: Option<String>,
    /// The mesh that the requests are made in.
    pub settings: Settings,
    /// The tests, in order; a row of a table is one.
    pub cases: Vec<Case>,
}

/// One request and what shall come of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// The line of the test or of the row.
    pub line: u32,
    /// The request.
    pub request: Request,
    /// What shall come of it.
    pub expect: Expectation,
}

/// What shall come of a request; what is absent may be anything. The names are those of [`Answer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// May it pass?
    pub decision: Verdict,
    /// The stage that decides.
    pub stage: Option<Stage>,
    /// The policy that decides, `namespace/name`.
    pub policy: Option<String>,
    /// Its rule, counted from 0.
    pub rule: Option<u32>,
    /// The code of the reason.
    pub code: Option<String>,
    /// The HTTP status.
    pub status: Option<u16>,
    /// Exactly these dry-run policies have something to say.
    pub dry_run: Option<Vec<ExpectedHit>>,
    /// Exactly these AUDIT policies match.
    pub audit: Option<Vec<ExpectedHit>>,
}

/// A policy outside the decision that shall be noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedHit {
    /// `namespace/name`.
    pub policy: String,
    /// The rule that matches; absent: any.
    pub rule: Option<u32>,
    /// What it would have come to; absent: either.
    pub would: Option<Verdict>,
}

/// A field of an answer that is not what was expected.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Mismatch {
    /// The field.
    pub field: &'static str,
    /// What was expected.
    pub expected: String,
    /// What came.
    pub got: String,
}

impl PolicyTest {
    /// The tests of a file; other kinds in it are passed over.
    ///
    /// # Errors
    /// With all problems of the tests.
    pub fn read(file: &Document) -> Result<Vec<Self>, Diagnostics> {
        let mut diagnostics = Diagnostics::default();
        let tests = kinds::read_tests(file, &mut diagnostics);
        diagnostics.sort();
        if diagnostics.has_errors() { Err(diagnostics) } else { Ok(tests) }
    }
}

impl Expectation {
    /// Nothing but the decision.
    pub(crate) fn of(decision: Verdict) -> Self {
        Self {
            decision,
            stage: None,
            policy: None,
            rule: None,
            code: None,
            status: None,
            dry_run: None,
            audit: None,
        }
    }

    /// Where an answer is not what was expected; nothing if it is.
    pub fn compare(&self, answer: &Answer) -> Vec<Mismatch> {
        let mut found = Vec::new();
        let mut hold = |field, expected: String, got: String| {
            if expected != got {
                found.push(Mismatch { field, expected, got });
            }
        };
        hold("decision", self.decision.as_str().to_owned(), answer.decision.as_str().to_owned());
        if let Some(stage) = self.stage {
            hold("stage", stage.as_str().to_owned(), answer.stage.as_str().to_owned());
        }
        let none = || "none".to_owned();
        if let Some(policy) = &self.policy {
            hold("policy", policy.clone(), answer.policy.clone().unwrap_or_else(none));
        }
        if let Some(rule) = self.rule {
            hold("rule", rule.to_string(), answer.rule.map_or_else(none, |rule| rule.to_string()));
        }
        if let Some(code) = &self.code {
            hold("code", code.clone(), answer.code.to_owned());
        }
        if let Some(status) = self.status {
            hold("status", status.to_string(), answer.status.to_string());
        }
        if let Some(expected) = &self.dry_run {
            let got = answer.dry_run.iter().map(|hit| (&hit.place, Some(hit.would))).collect();
            found.extend(compare_hits("dry_run", expected, got));
        }
        if let Some(expected) = &self.audit {
            let got = answer.audit.iter().map(|place| (place, None)).collect();
            found.extend(compare_hits("audit", expected, got));
        }
        found
    }
}

/// The hits have to be the same ones; their order is that of the policies' names, which nobody chose.
fn compare_hits(
    field: &'static str,
    expected: &[ExpectedHit],
    got: Vec<(&Place, Option<Verdict>)>,
) -> Option<Mismatch> {
    let fits = |hit: &ExpectedHit, (place, would): &(&Place, Option<Verdict>)| {
        hit.policy == place.policy
            && hit.rule.is_none_or(|rule| place.rule == Some(rule))
            && hit.would.is_none_or(|verdict| *would == Some(verdict))
    };
    let is_same = expected.len() == got.len()
        && expected.iter().all(|hit| got.iter().any(|other| fits(hit, other)))
        && got.iter().all(|other| expected.iter().any(|hit| fits(hit, other)));
    if is_same {
        return None;
    }
    let expected = expected.iter().map(ToString::to_string).collect::<Vec<_>>();
    let got = got.into_iter().map(|(place, would)| {
        let (policy, rule) = (place.policy.clone(), place.rule);
        ExpectedHit { policy, rule, would }.to_string()
    });
    let words = |hits: Vec<String>| {
        if hits.is_empty() { "none".to_owned() } else { hits.join(", ") }
    };
    Some(Mismatch { field, expected: words(expected), got: words(got.collect()) })
}

impl fmt::Display for ExpectedHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.policy)?;
        if let Some(rule) = self.rule {
            write!(f, " rule[{rule}]")?;
        }
        match self.would {
            Some(would) => write!(f, " would {}", would.as_str()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, got {}", self.field, self.expected, self.got)
    }
}
