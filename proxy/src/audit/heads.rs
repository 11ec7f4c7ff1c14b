//! Signs how far the audit's lanes have come, so that a tail that was cut off shows.
//!
//! Workers know nothing of it: what of their lanes is on disk is read here. A head is
//! signed again when it has moved or the certificate in force is another one.
//!
//! What is signed: "Tamper evidence" in `docs/audit-attributes.md`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use picket_api::v1;
use picket_certs::Svid;
use picket_ledger::chain::signed_text;

use super::nanos;
use crate::snapshot::Current;
use crate::spool::{EndedLane, Head, SharedLane};

/// Lanes of earlier boots that are still told of. Those that ended first are forgotten first: each
/// was sent, and metadata has to stay small.
const MAX_ENDED: usize = 8;
/// Heads in the metadata of an export: gRPC's C implementation takes 8 KiB of it.
const MAX_IN_METADATA: usize = 12;

/// The heads of all lanes, signed.
pub(crate) struct Heads {
    emitter: String,
    boot: String,
    lanes: Vec<SharedLane>,
    current: Arc<Current>,
    signed: Mutex<Signed>,
}

#[derive(Default)]
struct Signed {
    /// Of the identity that signed.
    epoch: Option<u64>,
    chain: Vec<Vec<u8>>,
    lanes: Vec<Lane>,
    ended: Vec<EndedLane>,
    /// Grows whenever something is signed.
    revision: u64,
}

struct Lane {
    boot: String,
    head: Head,
    signed: v1::ChainHead,
}

impl Heads {
    /// `lanes`: of this boot, in the order of their numbers.
    pub(crate) fn new(
        emitter: &str,
        boot: &str,
        lanes: Vec<SharedLane>,
        current: Arc<Current>,
    ) -> Self {
        let (emitter, boot) = (emitter.to_owned(), boot.to_owned());
        Self { emitter, boot, lanes, current, signed: Mutex::default() }
    }

    /// A lane of an earlier boot has come to its end.
    pub(crate) fn ended(&self, lane: EndedLane) {
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if signed.ended.len() == MAX_ENDED {
            signed.ended.remove(0);
        }
        signed.ended.push(lane);
    }

    /// The heads as they are now, to go with spans of these lanes: all of them, or if these are too
    /// many those of the lanes. None while there is no certificate, or nothing to tell.
    pub(crate) fn for_export(
        &self,
        is_of_them: impl Fn(&str, u32) -> bool,
        now: SystemTime,
    ) -> Option<v1::SignedHeads> {
        let (mut signed, _) = self.newer_than(0, now)?;
        if signed.heads.len() > MAX_IN_METADATA {
            signed.heads.retain(|head| is_of_them(&head.boot, head.lane));
            signed.heads.truncate(MAX_IN_METADATA);
        }
        Some(signed)
    }

    /// The heads as they are now and their revision, if something has changed since a revision.
    pub(crate) fn newer_than(
        &self,
        revision: u64,
        now: SystemTime,
    ) -> Option<(v1::SignedHeads, u64)> {
        let snapshot = self.current.load()?;
        let identity = &snapshot.identity;
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if signed.epoch != Some(identity.epoch) {
            let chain = identity.svid.chain().iter().map(|der| der.to_vec());
            *signed = Signed {
                epoch: Some(identity.epoch),
                chain: chain.collect(),
                lanes: Vec::new(),
                ended: std::mem::take(&mut signed.ended),
                revision: signed.revision,
            };
        }
        let ended = signed.ended.clone().into_iter().map(|e| (e.boot, e.lane, e.head));
        let live = (0_u32..).zip(&self.lanes);
        let live = live.map(|(lane, state)| (self.boot.clone(), lane, state.head()));
        let heads = ended.chain(live).filter(|(_, _, head)| head.emitted > 0);
        let mut lanes = Vec::new();
        for (boot, lane, head) in heads {
            let known = signed.lanes.iter().position(|known| {
                known.boot == boot && known.signed.lane == lane && known.head == head
            });
            lanes.push(match known {
                Some(known) => signed.lanes.swap_remove(known),
                None => {
                    let head_signed = self.sign(&identity.svid, &boot, lane, &head, now)?;
                    signed.revision += 1;
                    Lane { boot, head, signed: head_signed }
                }
            });
        }
        signed.lanes = lanes;
        if signed.lanes.is_empty() || signed.revision <= revision {
            return None;
        }
        let heads = signed.lanes.iter().map(|lane| lane.signed.clone()).collect();
        let message = v1::SignedHeads { certificate_chain: signed.chain.clone(), heads };
        Some((message, signed.revision))
    }

    fn sign(
        &self,
        svid: &Svid,
        boot: &str,
        lane: u32,
        head: &Head,
        now: SystemTime,
    ) -> Option<v1::ChainHead> {
        let time_ms = i64::try_from(nanos(now) / 1_000_000).unwrap_or(i64::MAX);
        let Head { link, emitted, open, lost } = head;
        let mut signed = v1::ChainHead {
            boot: boot.to_owned(),
            lane,
            position: link.position,
            hash: link.hash.to_vec(),
            emitted: *emitted,
            open: *open,
            lost: *lost,
            time_ms,
            signature: Vec::new(),
        };
        let signature = svid.sign(signed_text(&self.emitter, &signed).as_bytes());
        let signature = signature.inspect_err(|error| {
            tracing::error!(cause = crate::words(error), "the audit's heads cannot be signed");
        });
        signed.signature = signature.ok()?;
        Some(signed)
    }
}
