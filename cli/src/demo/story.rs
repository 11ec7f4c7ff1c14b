//! What the demo shows, a step at a time: what was sent, what came back, and why.
//!
//! The "why" is read from the audit trail. Every request is entered in a ledger with the records that
//! it must have left behind, and at the end the trail is held against the ledger.

mod chapters;
mod defence;

use std::net::SocketAddr;

use serde_json::Value;

use super::http::{Call, Reply, send};
use super::mesh::{Mesh, Record, new_trace, text};
use crate::exit::Failure;
use crate::output::{self, Colour, coloured};

/// Whose sidecar makes a record, and on which side.
type Hop = (&'static str, &'static str);

/// A request that was sent, and the records that it must have left.
struct Sent {
    trace: String,
    hops: Vec<Hop>,
}

/// Something that the demo showed, and whether it was as it should be.
struct Shown {
    title: String,
    expected: String,
    got: String,
    fits: bool,
}

/// A request in the story.
struct Step<'a> {
    title: &'a str,
    /// Who sends it and how, in words.
    sent: &'a str,
    to: SocketAddr,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    token: Option<&'a str>,
    expected: u16,
    hops: &'a [Hop],
}

/// The story, told once.
pub(super) struct Story<'m> {
    mesh: &'m mut Mesh,
    ledger: Vec<Sent>,
    shown: Vec<Shown>,
    /// Whether records can be asked for.
    control_is_up: bool,
}

impl<'m> Story<'m> {
    pub(super) fn new(mesh: &'m mut Mesh) -> Self {
        Self { mesh, ledger: Vec::new(), shown: Vec::new(), control_is_up: true }
    }

    /// Tells it; says whether every step gave what it should.
    pub(super) async fn tell(mut self) -> Result<bool, Failure> {
        self.identities_and_rules().await?;
        self.tokens().await?;
        self.strangers().await?;
        self.explain_and_correct().await?;
        self.alert_and_quarantine().await?;
        self.without_control_plane().await?;
        self.accounts().await?;
        self.summary()
    }

    /// Sends a request of the story, shows it, and enters it in the ledger.
    async fn step(&mut self, step: Step<'_>) -> Result<(), Failure> {
        self.title(step.title)?;
        said("sent", &format!("{} {}{}  {}", step.method, step.host, step.path, step.sent))?;
        let reply = self.send(&step).await?;
        said("got", &format!("{} {}", reply.status.as_u16(), shortened(&reply.body)))?;
        let mut fits = reply.status.as_u16() == step.expected;
        if self.control_is_up {
            fits &= self.why(step.hops).await?;
        }
        let got = reply.status.as_u16().to_string();
        self.show(step.title, &step.expected.to_string(), &got, fits)
    }

    async fn send(&mut self, step: &Step<'_>) -> Result<Reply, Failure> {
        let trace = new_trace();
        let call = Call {
            to: step.to,
            method: step.method,
            host: step.host,
            path: step.path,
            token: step.token,
            trace: &trace,
        };
        let reply = send(&call).await.map_err(Failure::Failed)?;
        self.ledger.push(Sent { trace, hops: step.hops.to_vec() });
        Ok(reply)
    }

    /// Shows what the audit trail says of the last request; says whether every hop is there.
    async fn why(&mut self, hops: &[Hop]) -> Result<bool, Failure> {
        let Some(sent) = self.ledger.last() else { return Ok(false) };
        let (query, trace) = (of_trace(&sent.trace), sent.trace.clone());
        let wanted = hops.len();
        self.mesh
            .until("the request is recorded", async |mesh| {
                Ok(mesh.records(&query).await?.len() >= wanted)
            })
            .await?;
        let records = self.mesh.records(&query).await?;
        for record in records.iter().filter(|r| text(r, "picket.direction") == "inbound") {
            said("why", &words(record))?;
        }
        said("trace", &format!("{trace}, {} records", records.len()))?;
        let mut found: Vec<Hop> = records.iter().map(hop_of).collect();
        let mut expected = hops.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        Ok(found == expected)
    }

    fn chapter(&self, title: &str) -> Result<(), Failure> {
        output::line("")?;
        output::line(&coloured(title, Colour::Bold))
    }

    fn title(&self, title: &str) -> Result<(), Failure> {
        output::line(&format!(" {:>2}. {title}", self.shown.len() + 1))
    }

    fn show(&mut self, title: &str, expected: &str, got: &str, fits: bool) -> Result<(), Failure> {
        let mark = match fits {
            true => coloured("√ as it should be", Colour::Green),
            false => coloured("× not as it should be", Colour::Red),
        };
        output::line(&format!("    {mark}"))?;
        self.shown.push(Shown {
            title: title.to_owned(),
            expected: expected.to_owned(),
            got: got.to_owned(),
            fits,
        });
        Ok(())
    }

    fn summary(self) -> Result<bool, Failure> {
        output::line("")?;
        let rows: Vec<Vec<String>> = self
            .shown
            .iter()
            .enumerate()
            .map(|(index, shown)| {
                let mark = if shown.fits { "√" } else { "×" };
                let number = (index + 1).to_string();
                let (title, expected) = (shown.title.clone(), shown.expected.clone());
                vec![number, title, expected, shown.got.clone(), mark.to_owned()]
            })
            .collect();
        output::table(&["", "STEP", "EXPECTED", "GOT", ""], &rows)?;
        let failed = self.shown.iter().filter(|shown| !shown.fits).count();
        output::line(&match failed {
            0 => format!("All {} steps gave what they should.", self.shown.len()),
            failed => {
                format!("{failed} of {} steps did not give what they should.", self.shown.len())
            }
        })?;
        Ok(failed == 0)
    }
}

fn of_trace(trace: &str) -> String {
    format!("trace={trace}&limit=5000")
}

fn said(what: &str, words: &str) -> Result<(), Failure> {
    output::line(&format!("    {what:<5} {words}"))
}

fn hop_of(record: &Record) -> Hop {
    let known = |text: &str, of: &[&'static str]| of.iter().find(|o| **o == text).copied();
    let service = known(text(record, "service.name"), &["web", "orders", "payments", "rogue"]);
    let direction = known(text(record, "picket.direction"), &["inbound", "outbound"]);
    (service.unwrap_or("?"), direction.unwrap_or("?"))
}

/// One inbound record in words.
fn words(record: &Record) -> String {
    let who = |name: &str| {
        let id = text(record, name);
        id.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("outside").to_owned()
    };
    let (source, destination) = (who("picket.source"), who("picket.destination"));
    let decision = text(record, "picket.decision");
    let policy = text(record, "picket.policy");
    let because = match (policy, record.get("picket.policy.rule").and_then(Value::as_i64)) {
        ("", _) => text(record, "picket.decision.reason").to_owned(),
        (policy, Some(rule)) => {
            format!("{policy} rule[{rule}] ({})", text(record, "picket.policy.source"))
        }
        (policy, None) => {
            format!(
                "{}, {policy} ({})",
                text(record, "picket.decision.reason"),
                text(record, "picket.policy.source")
            )
        }
    };
    let verb = if decision == "allow" { "allowed" } else { "denied" };
    let miss = text(record, "picket.decision.nearest_miss");
    let miss = if miss.is_empty() { String::new() } else { format!("; nearest miss: {miss}") };
    format!("{destination} {verb} {source}: {because}{miss}")
}

fn shortened(body: &str) -> &str {
    body.get(..body.floor_char_boundary(110)).unwrap_or(body)
}
