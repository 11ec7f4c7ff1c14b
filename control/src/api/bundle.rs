//! `/api/v1/audit/bundle`, `/proof`, `/erase`: what is needed to check the audit trail, and what is taken out
//! of it.
//!
//! All three are on the record. A bundle is read page by page while it is sent.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{StatusCode, header};
use picket_api::attributes as names;
use picket_certs::leaf::hex;
use picket_ledger::tree::WIDTH;
use rusqlite::Connection;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::problem::ApiError;
use crate::clock;
use crate::control::Control;
use crate::journal::{Act, Event};
use crate::operator::{
    BundleCheckpoint, BundleHead, BundleLine, BundleRecord, BundleStart, Erase, Erased, LogWitness,
    RecordProof,
};
use crate::peer::Operator;
use crate::store::log::{self, Kept};
use crate::store::{StoreError, erasure, heads, witnesses};

/// Records that are read at once: one bundle of the log's tiles.
const PAGE: u64 = WIDTH as u64;
/// Records that are erased at once.
const MAX_ERASED: usize = 10_000;

/// Since when.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Since {
    since: Option<String>,
}

/// `GET /api/v1/audit/bundle`
pub(super) async fn bundle(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    query: Result<Query<Since>, QueryRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let Query(Since { since }) = query?;
    let read = |text: &String| {
        let wrong = || ApiError::bad_request("since is not a time such as 2026-11-21T10:00:00Z");
        clock::parse_rfc3339(text).ok_or_else(wrong)
    };
    let from = since.as_ref().map(read).transpose()?;
    let detail =
        format!("a bundle of all records since {}", since.as_deref().unwrap_or("the begin"));
    note(&control, &operator, detail).await?;
    // Heads first: what they tell of has then had the time until the checkpoint to come.
    let now = SystemTime::now();
    let before = control.store.read(|c| Ok((heads::certificates(c)?, heads::all(c)?))).await?;
    let latest = control.ledger.checkpoint(now).await?;
    let latest = latest.ok_or_else(|| ApiError::bad_request("there is no log yet"))?;
    let start = BundleStart {
        version: 1,
        made_at: clock::rfc3339(now),
        key: control.ledger.key().to_string(),
        trust_domain: control.config.trust_domain.to_string(),
        authorities: control.authority.bundle().to_pem(),
        first: 0,
        size: latest.size,
        edge: Vec::new(),
    };
    let (send, stream) = mpsc::channel::<Result<Bytes, StoreError>>(4);
    let tasks = control.tasks.clone();
    tasks.spawn(async move {
        let sent = send_bundle(&control, start, from, &latest, before, &send).await;
        if let Err(error) = sent {
            tracing::error!(error = %crate::chain(&error), "a bundle could not be sent");
            // The reader sees that it breaks off, by the end that is missing.
            let _gone = send.send(Err(error)).await;
        }
    });
    let body = Body::from_stream(ReceiverStream::new(stream));
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], body))
}

type Sender = mpsc::Sender<Result<Bytes, StoreError>>;
type Heads = (Vec<heads::Certificates>, Vec<heads::Kept>);

async fn send_bundle(
    control: &Control,
    start: BundleStart,
    from: Option<i64>,
    latest: &Arc<Kept>,
    before: Heads,
    send: &Sender,
) -> Result<(), StoreError> {
    let whole = Arc::clone(latest);
    let begin = control
        .store
        .read(move |connection| {
            let retained = log::retained(connection)?;
            let since = from.map(|from| log::first_since(connection, from)).transpose()?;
            let first = since.unwrap_or(0).max(retained).min(whole.size) / PAGE * PAGE;
            let edge = log::tree_of(connection, first)?.edge().to_vec();
            let edge = edge.iter().map(|tile| tile.iter().map(|h| hex(h)).collect()).collect();
            let mut lines = vec![BundleLine::Bundle(BundleStart { first, edge, ..start })];
            lines.extend(checkpoints(connection, first, &whole)?);
            for witness in witnesses::all(connection)? {
                lines.push(BundleLine::Witness(LogWitness {
                    spiffe_id: witness.spiffe_id,
                    key: witness.key,
                    size: witness.size,
                    note: witness.note,
                    refusal: witness.refusal,
                    heard_at: clock::rfc3339(clock::from_milliseconds(witness.heard_at)),
                }));
            }
            Ok((first, retained, lines))
        })
        .await?;
    let (first, retained, mut lines) = begin;
    let (certificates, kept) = before;
    lines.extend(certificates.into_iter().map(|(id, chain)| BundleLine::Certificates {
        id,
        chain: chain.iter().map(|der| STANDARD.encode(der)).collect(),
    }));
    lines.extend(kept.into_iter().map(head));
    if !write(send, &lines).await {
        return Ok(());
    }
    let (mut resources, mut count) = (HashSet::new(), 0);
    let mut next = first;
    while next < latest.size {
        let end = (next + PAGE).min(latest.size);
        let page = control.store.read(move |c| {
            let leaves = log::read_tile(c, 0, next / PAGE)?.unwrap_or_default();
            Ok((leaves, log::records(c, next, end)?))
        });
        let (leaves, found) = page.await?;
        let mut lines = Vec::with_capacity(found.len() + 8);
        let mut found = found.into_iter().peekable();
        for (index, leaf) in (next..end).zip(&leaves) {
            let leaf = hex(leaf);
            let Some(logged) = found.next_if(|logged| logged.index == index) else {
                lines.push(BundleLine::Gone { index, leaf, retention: index < retained });
                continue;
            };
            if resources.insert(logged.resource_id) {
                let bytes = STANDARD.encode(&logged.resource);
                lines.push(BundleLine::Resource { id: logged.resource_id, bytes });
            }
            lines.push(BundleLine::Record(record(logged, leaf)));
            count += 1;
        }
        if !write(send, &lines).await {
            return Ok(());
        }
        next = end;
    }
    let unlogged = control.store.read(log::unlogged).await?;
    let unlogged = unlogged.into_iter().map(|(id, at)| BundleLine::Unlogged {
        id,
        found_at: clock::rfc3339(clock::from_milliseconds(at)),
    });
    let mut lines: Vec<BundleLine> = unlogged.collect();
    lines.push(BundleLine::End { records: count });
    write(send, &lines).await;
    Ok(())
}

/// False if nobody reads any more.
async fn write(send: &Sender, lines: &[BundleLine]) -> bool {
    let mut bytes = Vec::new();
    for line in lines {
        // Plain data: it has a JSON form.
        bytes.extend(serde_json::to_vec(line).unwrap_or_default());
        bytes.push(b'\n');
    }
    send.send(Ok(bytes.into())).await.is_ok()
}

fn checkpoints(
    connection: &Connection,
    first: u64,
    whole: &Kept,
) -> Result<Vec<BundleLine>, StoreError> {
    let mut lines = Vec::new();
    for kept in log::checkpoints(connection)? {
        if kept.size > whole.size {
            continue;
        }
        let proof = match kept.size < first {
            true => log::consistency(connection, kept.size, whole.size)?,
            false => Vec::new(),
        };
        let note = log::cosigned_note(connection, &kept)?;
        let proof = proof.iter().map(|hash| hex(hash)).collect();
        lines.push(BundleLine::Checkpoint(BundleCheckpoint { note, proof }));
    }
    Ok(lines)
}

fn head(kept: heads::Kept) -> BundleLine {
    let heads::Kept { spiffe_id, head, certificate } = kept;
    BundleLine::Head(BundleHead {
        emitter: spiffe_id,
        boot: head.boot,
        lane: head.lane,
        position: head.position,
        hash: hex(&head.hash),
        emitted: head.emitted,
        open: head.open,
        lost: head.lost,
        time_ms: head.time_ms,
        signature: STANDARD.encode(head.signature),
        certificates: certificate,
    })
}

fn record(logged: log::Logged, leaf: String) -> BundleRecord {
    let log::Logged { index, entry, salt, resource_id, span, .. } = logged;
    let is_erased = salt.is_none();
    BundleRecord {
        index,
        leaf,
        emitter: entry.emitter,
        boot: entry.boot,
        lane: entry.lane,
        sequence: entry.sequence,
        position: entry.position,
        resource: resource_id,
        salt: salt.map(|salt| STANDARD.encode(salt)),
        span: (!is_erased).then(|| STANDARD.encode(span)),
        commitment: is_erased.then(|| hex(&entry.commitment)),
    }
}

/// A record's name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    id: String,
}

/// `GET /api/v1/audit/proof?id=…`
pub(super) async fn proof(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    query: Result<Query<Named>, QueryRejection>,
) -> Result<Json<RecordProof>, ApiError> {
    let Query(Named { id }) = query?;
    let place = record_id(&id)?;
    let found = control.store.read(move |c| log::index_of(c, &place)).await?;
    let Some(index) = found else {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("there is no record {id}"),
        ));
    };
    note(&control, &operator, format!("a proof of the record {id}")).await?;
    let latest = control.ledger.checkpoint(SystemTime::now()).await?;
    let latest = latest.ok_or_else(|| ApiError::bad_request("there is no log yet"))?;
    let key = control.ledger.key().to_string();
    let read = move |connection: &Connection| {
        // The newest one that somebody else has seen, too.
        let kept = log::cosigned_after(connection, index)?.unwrap_or_else(|| Kept::clone(&latest));
        let logged = log::records(connection, index, index + 1)?.into_iter().next();
        let logged = logged.ok_or(StoreError::Unreadable("an audit record"))?;
        let is_erased = logged.salt.is_none();
        let path = log::inclusion(connection, index, kept.size)?;
        Ok(RecordProof {
            id,
            index,
            entry: logged.entry.to_text(),
            salt: logged.salt.map(|salt| STANDARD.encode(salt)),
            resource: (!is_erased).then(|| STANDARD.encode(&logged.resource)),
            span: (!is_erased).then(|| STANDARD.encode(&logged.span)),
            size: kept.size,
            path: path.iter().map(|hash| hex(hash)).collect(),
            checkpoint: log::cosigned_note(connection, &kept)?,
            key,
            witnesses: witnesses::all(connection)?.into_iter().map(|witness| witness.key).collect(),
        })
    };
    Ok(Json(control.store.read(read).await?))
}

/// `POST /api/v1/audit/erase`
pub(super) async fn erase(
    State(control): State<Arc<Control>>,
    Extension(operator): Extension<Operator>,
    body: Result<Json<Erase>, JsonRejection>,
) -> Result<Json<Erased>, ApiError> {
    let Json(Erase { ids, reason }) = body?;
    if ids.is_empty() || ids.len() > MAX_ERASED {
        return Err(ApiError::bad_request(format!("ids are not 1 to {MAX_ERASED}")));
    }
    if reason.is_empty() || reason.len() > 500 {
        return Err(ApiError::bad_request("reason is not 1 to 500 characters"));
    }
    let places: Result<Vec<_>, ApiError> =
        ids.iter().map(|id| Ok((id.clone(), record_id(id)?))).collect();
    let (places, journal, now) = (places?, control.journal.clone(), SystemTime::now());
    let write = control.store.write(move |writing| {
        let (mut erased, mut unknown) = (Vec::new(), Vec::new());
        for (id, place) in places {
            let index = log::index_of(writing, &place)?;
            let done = match index {
                Some(index) => erasure::erase(writing, index, clock::milliseconds(now))?,
                None => false,
            };
            if done { erased.push(id) } else { unknown.push(id) }
        }
        let act = Act::granted(Event::Erase, now).actor(&operator.actor).subject(&erased.join(" "));
        if !erased.is_empty() {
            journal.enter(writing, &act.with(names::DETAIL, reason))?;
        }
        Ok(Erased { erased, unknown })
    });
    Ok(Json(write.await?))
}

/// `<boot>-<lane>-<sequence>`; a boot has hyphens of its own.
fn record_id(text: &str) -> Result<(String, i64, i64), ApiError> {
    let mut parts = text.rsplitn(3, '-');
    let mut number = || parts.next().and_then(|part| part.parse::<i64>().ok());
    let (sequence, lane) = (number(), number());
    match (parts.next(), lane, sequence) {
        (Some(boot), Some(lane), Some(sequence)) => Ok((boot.to_owned(), lane, sequence)),
        _ => Err(ApiError::bad_request("id is not that of a record")),
    }
}

/// Reading is on the record.
async fn note(control: &Control, operator: &Operator, detail: String) -> Result<(), ApiError> {
    let act = Act::granted(Event::ReadAudit, SystemTime::now()).actor(&operator.actor);
    control.journal.record(act.with(names::DETAIL, detail)).await?;
    Ok(())
}
