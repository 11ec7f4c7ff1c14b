//! Signed heads: who signed, and whether they fit what is known.

use std::time::SystemTime;

use picket_api::v1::SignedHeads;
use picket_ledger::chain::HeadSigner;

use super::Ledger;
use crate::clock;
use crate::peer::Workload;
use crate::store::StoreError;
use crate::store::heads::{self, Saved};

/// Heads of one message: more are not one process's lanes.
const MAX_HEADS: usize = 256;
/// Certificates of one chain.
const MAX_CHAIN: usize = 8;
/// Longest boot.
const MAX_BOOT: usize = 64;

impl Ledger {
    /// Takes up heads that a workload sent. What is not its own, or contradicts what is known, is on the
    /// record; the rest is kept.
    pub(crate) async fn heads(
        &self,
        workload: &Workload,
        message: SignedHeads,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let emitter = workload.id.as_str();
        let SignedHeads { certificate_chain, heads } = message;
        if heads.is_empty() {
            return Ok(());
        }
        if heads.len() > MAX_HEADS || certificate_chain.len() > MAX_CHAIN {
            let detail = "more heads than one process has lanes".to_owned();
            self.tamper("head_forged", emitter, detail, now).await;
            return Ok(());
        }
        let signer = HeadSigner::new(&certificate_chain);
        let mut good = Vec::with_capacity(heads.len());
        for head in heads {
            let is_boot = crate::ingest::is_boot(&head.boot, MAX_BOOT);
            match signer.check(&self.workloads, emitter, &head) {
                Ok(()) if is_boot => good.push(head),
                Ok(()) => {}
                Err(bad) => {
                    let place = (head.boot.chars().take(MAX_BOOT).collect::<String>(), head.lane);
                    let detail =
                        format!("boot {}, lane {}: {}", place.0, place.1, crate::chain(&bad));
                    self.tamper("head_forged", emitter, detail, now).await;
                }
            }
        }
        let (own, at) = (emitter.to_owned(), clock::milliseconds(now));
        let saved = self.store.write(move |writing| {
            let certificate = heads::certificate(writing, &certificate_chain)?;
            let mut saved = Vec::with_capacity(good.len());
            for head in good {
                let outcome = heads::save(writing, &own, &head, certificate, at)?;
                saved.push((head, outcome));
            }
            Ok(saved)
        });
        for (head, outcome) in saved.await? {
            let (code, what) = match outcome {
                Saved::Kept => continue,
                Saved::ForeignBoot => ("head_forged", "the boot belongs to another emitter"),
                Saved::TooLarge => ("head_forged", "its numbers are too large"),
                Saved::Fork => ("head_forked", "another head has this position and another hash"),
                Saved::OtherRecord => ("head_forked", "the record at its position is another one"),
            };
            let (boot, lane, position) = (&head.boot, head.lane, head.position);
            let detail = format!("boot {boot}, lane {lane}, position {position}: {what}");
            self.tamper(code, emitter, detail, now).await;
        }
        Ok(())
    }
}
