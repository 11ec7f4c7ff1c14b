//! `/api/v1/log`: the log as C2SP tlog-tiles has it, and proofs.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use http::{HeaderName, StatusCode, header};
use picket_certs::leaf::hex;
use picket_ledger::tile::Tile;
use picket_ledger::tree::WIDTH;
use serde::Deserialize;

use super::problem::ApiError;
use crate::clock;
use crate::control::Control;
use crate::operator::{LogStatus, LogWitness};
use crate::store::log::{self, Kept};
use crate::store::{StoreError, witnesses};

type Answer = Result<([(HeaderName, &'static str); 2], Vec<u8>), ApiError>;

fn answer(kind: &'static str, cache: &'static str, bytes: Vec<u8>) -> Answer {
    Ok(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, cache)], bytes))
}

fn absent(detail: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", detail)
}

fn latest(control: &Control) -> Result<Arc<Kept>, ApiError> {
    control.ledger.latest().ok_or_else(|| absent("there is no checkpoint yet"))
}

/// `GET /api/v1/log`
pub(super) async fn status(
    State(control): State<Arc<Control>>,
) -> Result<Json<LogStatus>, ApiError> {
    let latest = latest(&control)?;
    let witnesses = control.store.read(witnesses::all).await?;
    let witnesses = witnesses.into_iter().map(|witness| LogWitness {
        spiffe_id: witness.spiffe_id,
        key: witness.key,
        size: witness.size,
        note: witness.note,
        refusal: witness.refusal,
        heard_at: clock::rfc3339(clock::from_milliseconds(witness.heard_at)),
    });
    Ok(Json(LogStatus {
        key: control.ledger.key().to_string(),
        size: latest.size,
        root: hex(&latest.root),
        witnesses: witnesses.collect(),
    }))
}

/// `GET /api/v1/log/checkpoint`: the last one, with the cosignatures that have come.
pub(super) async fn checkpoint(State(control): State<Arc<Control>>) -> Answer {
    let latest = latest(&control)?;
    let note = control.store.read(move |c| log::cosigned_note(c, &latest)).await?;
    answer("text/plain; charset=utf-8", "no-cache", note.into_bytes())
}

/// `GET /api/v1/log/tile/…`
pub(super) async fn tile(State(control): State<Arc<Control>>, Path(path): Path<String>) -> Answer {
    let tile = Tile::parse(&path).ok_or_else(|| absent("that is no tile's path"))?;
    let size = latest(&control)?.size;
    let level = tile.level.unwrap_or(0);
    // What a hash of this level covers, and where the tile ends in entries.
    let covered = (WIDTH as u64).checked_pow(level.into());
    let end = (tile.number.checked_mul(WIDTH as u64))
        .and_then(|first| first.checked_add(tile.width as u64))
        .and_then(|last| last.checked_mul(covered?));
    if end.is_none_or(|end| end > size) {
        return Err(absent("the log is not that long"));
    }
    let bytes = match tile.level {
        Some(_) => control.store.read(move |c| hashes(c, tile)).await?,
        None => control.store.read(move |c| entries(c, tile)).await?,
    };
    let bytes = bytes.ok_or_else(|| absent("records of that tile are not here any more"))?;
    answer("application/octet-stream", "private, max-age=31536000, immutable", bytes)
}

fn hashes(connection: &rusqlite::Connection, tile: Tile) -> Result<Option<Vec<u8>>, StoreError> {
    let found = log::read_tile(connection, tile.level.unwrap_or(0), tile.number)?;
    Ok(found.and_then(|hashes| hashes.get(..tile.width).map(<[_]>::concat)))
}

fn entries(connection: &rusqlite::Connection, tile: Tile) -> Result<Option<Vec<u8>>, StoreError> {
    let first = tile.number * WIDTH as u64;
    let found = log::records(connection, first, first + tile.width as u64)?;
    if found.len() != tile.width {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(tile.width * 256);
    for logged in found {
        let entry = logged.entry.to_text();
        let length = u16::try_from(entry.len());
        let length = length.map_err(|_| StoreError::Unreadable("an entry of the log"))?;
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(entry.as_bytes());
    }
    Ok(Some(bytes))
}

/// Two sizes of the log.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sizes {
    old: u64,
    new: u64,
}

/// `GET /api/v1/log/consistency?old=…&new=…`: RFC 6962 section 2.1.2, hashes in hexadecimal.
pub(super) async fn consistency(
    State(control): State<Arc<Control>>,
    sizes: Result<Query<Sizes>, QueryRejection>,
) -> Result<Json<Vec<String>>, ApiError> {
    let Query(Sizes { old, new }) = sizes?;
    if old > new || new > latest(&control)?.size {
        return Err(ApiError::bad_request("the sizes are not in order, or the log is shorter"));
    }
    let path = control.store.read(move |c| log::consistency(c, old, new)).await?;
    Ok(Json(path.iter().map(|hash| hex(hash)).collect()))
}
