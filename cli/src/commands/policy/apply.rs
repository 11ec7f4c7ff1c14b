//! `picket policy apply`: hands a whole set to the control plane, and waits for what each proxy says.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use picket_control::operator::{
    AppliedPolicies, ApplyPolicies, PolicyFile, PolicyStatus, ProxyState, ProxyStatus, Status,
};
use picket_policy::{Document, PolicySet, Severity};
use serde::Serialize;
use serde_json::json;

use super::{placed, words};
use crate::args::{ApplyCommand, ControlArguments, Format};
use crate::client::Client;
use crate::commands::receipts::{PAUSE, Word, timeout};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::recorded::Mesh;

/// What one proxy says of the generation.
#[derive(Serialize)]
struct Receipt {
    workload: String,
    boot: String,
    state: Word,
    /// From receipt to enforcement, in microseconds.
    applied_in_us: Option<u64>,
    refusal: Option<String>,
    /// The generation that it enforces.
    generation: String,
}

pub(super) async fn run(
    command: &ApplyCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let client = Client::new(control)?;
    let timeout = timeout(&command.timeout)?;
    let applied = put(&client, &command.dir).await?;
    let receipts = match command.wait {
        true => Some(receipts(&client, &applied.generation, timeout).await?),
        false => None,
    };
    match command.output.format {
        Format::Json => output::json(&json!({
            "generation": applied.generation,
            "replaced": applied.replaced,
            "changed": applied.changed,
            "receipts": receipts,
        }))?,
        Format::Table => print(&applied, receipts.as_deref())?,
    }
    let is_fine = |receipt: &Receipt| receipt.state == Word::Applied;
    let fine = receipts.is_none_or(|receipts| receipts.iter().all(is_fine));
    Ok(if fine { Exit::Fine } else { Exit::Problems })
}

/// Checks the set here, with the mesh's settings, and hands it over.
async fn put(client: &Client, directory: &Path) -> Result<AppliedPolicies, Failure> {
    let status: PolicyStatus = client.get("/api/v1/policies").await?;
    let documents = super::documents(directory)?;
    let settings = match status.generation {
        Some(_) => Mesh::ask(client).await?.settings,
        // A control plane without any policies says no settings: it checks the set itself.
        None => picket_policy::Settings::default(),
    };
    let set = PolicySet::parse(&documents, settings)
        .map_err(|problems| Failure::Problems(words(directory, &problems)))?;
    for warning in set.warnings().iter().filter(|d| d.severity == Severity::Warning) {
        eprintln!("{}", placed(directory, warning));
    }
    if client.is_local() && is_same(directory, &status.directory) {
        let generation = set.generation().to_string();
        return in_place(client, generation, &status).await;
    }
    let file = |d: Document| PolicyFile { file: d.file.to_string(), text: d.text.to_string() };
    let apply = ApplyPolicies {
        files: documents.into_iter().map(file).collect(),
        replaces: status.generation,
    };
    Ok(client.put("/api/v1/policies", &apply).await?)
}

fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// The directory is the control plane's own: it notices by itself.
async fn in_place(
    client: &Client,
    generation: String,
    before: &PolicyStatus,
) -> Result<AppliedPolicies, Failure> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let now: PolicyStatus = client.get("/api/v1/policies").await?;
        if now.generation.as_deref() == Some(&generation) {
            let replaced = before.generation.clone();
            let changed = replaced.as_deref() != Some(&generation);
            return Ok(AppliedPolicies { generation, replaced, changed });
        }
        if Instant::now() > end {
            return Err(Failure::Problems(format!(
                "the control plane has not taken up generation {generation} of its own directory; \
                 see `picket status`"
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until every proxy has answered for a generation, or the time is over.
async fn receipts(
    client: &Client,
    generation: &str,
    timeout: Duration,
) -> Result<Vec<Receipt>, Failure> {
    let end = Instant::now() + timeout;
    loop {
        let status: Status = client.get("/api/v1/status").await?;
        let live = status.proxies.into_iter().filter(|proxy| proxy.state != ProxyState::Gone);
        let receipts: Vec<Receipt> = live.map(|proxy| receipt(proxy, generation)).collect();
        let current = status.control.policy.generation;
        if current.as_deref() != Some(generation) {
            return Err(Failure::Problems(format!(
                "generation {} came into force meanwhile: somebody else has changed the policies",
                current.as_deref().unwrap_or("none")
            )));
        }
        let is_over = receipts.iter().all(|receipt| receipt.state != Word::Waiting);
        if is_over || Instant::now() > end {
            return Ok(receipts);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn receipt(proxy: ProxyStatus, generation: &str) -> Receipt {
    let state = match (&proxy.refusal, proxy.generation == generation) {
        (Some(_), _) => Word::Refused,
        (None, true) => Word::Applied,
        (None, false) => Word::Waiting,
    };
    Receipt {
        workload: proxy.workload,
        boot: proxy.boot,
        state,
        applied_in_us: proxy.applied_in_us.filter(|_| state == Word::Applied),
        refusal: proxy.refusal,
        generation: proxy.generation,
    }
}

fn print(applied: &AppliedPolicies, receipts: Option<&[Receipt]>) -> Result<(), Failure> {
    let AppliedPolicies { generation, replaced, changed } = applied;
    output::line(&match (changed, replaced) {
        (true, Some(before)) => format!("generation {generation} is in force, before it {before}"),
        (true, None) => format!("generation {generation} is in force, the first"),
        (false, _) => format!("generation {generation} was in force already"),
    })?;
    let Some(receipts) = receipts else { return Ok(()) };
    let rows: Vec<Vec<String>> = receipts.iter().map(row).collect();
    output::table(&["WORKLOAD", "STATE", "TOOK", "WHY"], &rows)?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for receipt in receipts {
        *counts.entry(receipt.state.as_str()).or_default() += 1;
    }
    let count = |word: Word| counts.get(word.as_str()).copied().unwrap_or_default();
    output::line(&format!(
        "Result: {} of {} applied, {} refused, {} silent",
        count(Word::Applied),
        counted_proxies(receipts.len()),
        count(Word::Refused),
        count(Word::Waiting)
    ))
}

fn counted_proxies(count: usize) -> String {
    match count {
        1 => "1 proxy".to_owned(),
        count => format!("{count} proxies"),
    }
}

fn row(receipt: &Receipt) -> Vec<String> {
    let took = receipt
        .applied_in_us
        .map_or_else(|| "-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1000.0));
    let why = match (&receipt.refusal, receipt.state) {
        (Some(refusal), _) => refusal.clone(),
        (None, Word::Waiting) if receipt.generation.is_empty() => "enforces nothing yet".to_owned(),
        (None, Word::Waiting) => format!("still enforces {}", receipt.generation),
        (None, _) => "-".to_owned(),
    };
    vec![receipt.workload.clone(), receipt.state.as_str().to_owned(), took, why]
}

impl Word {
    fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::Waiting => "silent",
        }
    }
}
