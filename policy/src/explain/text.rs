//! The answer for people: the verdict first, then what led to it.

use std::fmt;

use super::{Answer, Assumed, Custom, Place};
use crate::decision::{Stage, Verdict};
use crate::explanation::{FailedClause, NearestMiss};

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.decision {
            Verdict::Allow => "ALLOW",
            Verdict::Deny => "DENY",
        };
        write!(
            f,
            "{verdict}  {}: {}   (generation {})",
            self.stage.as_str(),
            self.reason,
            self.generation
        )?;
        if self.stage >= Stage::Custom {
            write!(f, "\n  evaluated in order CUSTOM → DENY → ALLOW")?;
        }
        if let Some(custom) = &self.custom {
            write_custom(f, custom)?;
        }
        match &self.nearest_miss {
            Some(miss) => write_miss(f, miss)?,
            None if self.code == "no_allow_matched" => {
                write!(
                    f,
                    "\n  nearest miss: none, the ALLOW policies for {} have no rules",
                    self.destination
                )?;
            }
            None => {}
        }
        for hit in &self.dry_run {
            let what = match hit.place.rule {
                Some(rule) => format!("rule[{rule}] would {}", hit.would.as_str()),
                None => format!("no rule matches: would {}", hit.would.as_str()),
            };
            write!(f, "\n  dry run: {}  {what}", place(&hit.place))?;
        }
        for hit in &self.audit {
            write!(f, "\n  audit: {}", place(hit))?;
        }
        Ok(())
    }
}

/// Nobody was asked, and that is to be read.
fn write_custom(f: &mut fmt::Formatter<'_>, custom: &Custom) -> fmt::Result {
    let assumed = match custom.assumed {
        Assumed::Allow => "allows",
        Assumed::Deny => "denies",
        Assumed::Error => "gives no answer",
    };
    let (authorizer, place) = (&custom.authorizer, place(&custom.place));
    write!(f, "\n  custom: {place}  the proxy would ask `{authorizer}`; assumed that it {assumed}")
}

fn write_miss(f: &mut fmt::Formatter<'_>, miss: &NearestMiss) -> fmt::Result {
    write!(
        f,
        "\n  nearest miss: ALLOW {} rule[{}]   {}:{}",
        miss.policy, miss.rule, miss.file, miss.line
    )?;
    for clause in &miss.failed {
        write!(f, "\n    × {}: {}", clause.field, difference(clause))?;
    }
    if !miss.satisfied.is_empty() {
        write!(f, "\n    √ {}", miss.satisfied.join(", "))?;
    }
    Ok(())
}

fn difference(clause: &FailedClause) -> String {
    let got = clause.got.as_deref().unwrap_or("none");
    let list = clause.wanted.join(", ");
    if clause.negated {
        format!("got {got}, must not be [{list}]")
    } else {
        format!("got {got}, wants [{list}]")
    }
}

fn place(place: &Place) -> String {
    format!("{}   {}:{}", place.policy, place.file, place.line)
}
