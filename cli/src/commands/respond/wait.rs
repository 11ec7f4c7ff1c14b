//! `picket respond approve`: does what was suggested, and waits until the proxies enforce it.

use std::time::{Duration, Instant};

use picket_control::operator::{
    AlertResponse, ApprovedResponse, ProxyState, ProxyStatus, RevertResponse, Status,
};
use serde::Serialize;

use crate::args::{ApproveArguments, Format};
use crate::client::Client;
use crate::commands::receipts::{PAUSE, Word, timeout};
use crate::exit::{Exit, Failure};
use crate::output;

/// What one proxy says of it.
#[derive(Serialize)]
struct Receipt {
    workload: String,
    boot: String,
    state: Word,
    refusal: Option<String>,
    /// The generation that it enforces.
    generation: String,
    /// The revision of the list of revocations that it enforces.
    revocations: u64,
}

/// As it is printed for programs.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    approved: &'a ApprovedResponse,
    /// With `--wait`: every proxy that is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipts: Option<&'a [Receipt]>,
}

pub(super) async fn approve(
    client: &Client,
    path: &str,
    arguments: &ApproveArguments,
) -> Result<Exit, Failure> {
    let timeout = timeout(&arguments.timeout)?;
    let approved: ApprovedResponse = client.post(path, &RevertResponse::default()).await?;
    let receipts = match arguments.wait {
        true => Some(receipts(client, &approved, timeout).await?),
        false => None,
    };
    match arguments.output.format {
        Format::Json => {
            output::json(&Told { approved: &approved, receipts: receipts.as_deref() })?;
        }
        Format::Table => {
            super::print(std::slice::from_ref(&approved.response))?;
            if let Some(receipts) = &receipts {
                print(receipts)?;
            }
        }
    }
    let is_fine = |receipt: &Receipt| receipt.state == Word::Applied;
    let fine = receipts.is_none_or(|receipts| receipts.iter().all(is_fine));
    Ok(if fine { Exit::Fine } else { Exit::Problems })
}

/// Waits until every proxy that is connected has answered, or the time is over.
async fn receipts(
    client: &Client,
    approved: &ApprovedResponse,
    timeout: Duration,
) -> Result<Vec<Receipt>, Failure> {
    let AlertResponse { id, policy, .. } = &approved.response;
    if policy.is_some() && approved.generation.is_none() {
        return Err(Failure::Problems(format!(
            "response {id} is active, but its policy is not in force yet; see `picket status`"
        )));
    }
    let end = Instant::now() + timeout;
    loop {
        let status: Status = client.get("/api/v1/status").await?;
        let current = status.control.policy.generation;
        // Whoever is revoked is told nothing any more.
        let is_asked = |proxy: &ProxyStatus| {
            proxy.connected && !matches!(proxy.state, ProxyState::Gone | ProxyState::Revoked)
        };
        let asked = status.proxies.into_iter().filter(is_asked);
        let receipts: Vec<Receipt> =
            asked.map(|proxy| receipt(proxy, approved, current.as_deref())).collect();
        let is_over = receipts.iter().all(|receipt| receipt.state != Word::Waiting);
        if is_over || Instant::now() > end {
            return Ok(receipts);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn receipt(proxy: ProxyStatus, approved: &ApprovedResponse, current: Option<&str>) -> Receipt {
    // What has come into force since has it too.
    let is_one = |wanted: &str| proxy.generation == wanted || Some(&*proxy.generation) == current;
    let has_policy = approved.generation.as_deref().is_none_or(is_one);
    let has_list = approved.revision.is_none_or(|revision| proxy.revocations >= revision);
    let state = match &proxy.refusal {
        Some(_) if !has_policy => Word::Refused,
        _ if has_policy && has_list => Word::Applied,
        _ => Word::Waiting,
    };
    Receipt {
        workload: proxy.workload,
        boot: proxy.boot,
        state,
        refusal: proxy.refusal,
        generation: proxy.generation,
        revocations: proxy.revocations,
    }
}

fn print(receipts: &[Receipt]) -> Result<(), Failure> {
    output::line("")?;
    let rows = receipts.iter().map(|receipt| {
        let state = match receipt.state {
            Word::Applied => "applied",
            Word::Refused => "refused",
            Word::Waiting => "silent",
        };
        let why = match (receipt.state, &receipt.refusal) {
            (Word::Applied, _) => "-".to_owned(),
            (_, Some(refusal)) => refusal.escape_debug().to_string(),
            (_, None) => {
                let Receipt { generation, revocations, .. } = receipt;
                format!("still enforces {generation}, revocations {revocations}")
            }
        };
        vec![receipt.workload.clone(), state.to_owned(), why]
    });
    output::table(&["WORKLOAD", "STATE", "WHY"], &rows.collect::<Vec<_>>())?;
    let done = receipts.iter().filter(|receipt| receipt.state == Word::Applied).count();
    output::line(&format!("Result: {done} of {} that are connected enforce it", receipts.len()))
}
