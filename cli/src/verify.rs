//! Checks a bundle of the audit trail, believing nobody: not the control plane, not its database.
//!
//! One pass over the lines of [`picket_control::operator::BundleLine`]: every commitment and leaf is
//! computed again, the tree's root is held against each signed checkpoint, each lane's chain against its
//! signed heads. What is wrong is named ([`Code`]). Memory grows with what is wrong and with the lanes, not
//! with the records.
//!
//! What it stands on: the log's key and the mesh's authority, as they were pinned or are given; what others
//! have seen of the log ([`Known`]).

mod findings;
mod lanes;
mod naming;
mod seen;
mod span;

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use picket_api::v1::ChainHead;
use picket_certs::{Expect, PeerVerifier, SpiffeId, TrustBundle};
use picket_control::operator::{
    BundleCheckpoint, BundleHead, BundleLine, BundleRecord, BundleStart, LogWitness,
};
use picket_ledger::chain::HeadSigner;
use picket_ledger::entry::{self, Entry};
use picket_ledger::note::Verifier as Key;
use picket_ledger::{Hash, SignedCheckpoint, Tree, hex, proof};

use crate::exit::{Failure, words};

pub(crate) use findings::{Code, Finding, Report, WitnessReport};
use lanes::{Lanes, Link};

/// A checkpoint that somebody else has seen.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// Who, in words.
    pub(crate) by: String,
    /// The signed note.
    pub(crate) note: String,
}

/// What a verification stands on.
#[derive(Default)]
pub(crate) struct Trust {
    /// The log's key, if it is known beforehand.
    pub(crate) key: Option<Key>,
    /// The mesh's authorities, if they are known beforehand: PEM.
    pub(crate) authorities: Option<String>,
    /// Checkpoints that were seen.
    pub(crate) known: Vec<Known>,
    /// The bundle has to begin with the first record that retention left.
    pub(crate) is_whole: bool,
}

/// An entry whose record is not the one that was entered.
struct Mismatch {
    index: u64,
    id: String,
    computed: Hash,
    logged: Hash,
    is_duplicate: bool,
}

/// A checkpoint that is still to be compared with.
struct Waiting {
    by: String,
    root: Hash,
    is_own: bool,
}

/// A verification under way.
pub(crate) struct Verification {
    trust: Trust,
    start: Option<Start>,
    tree: Tree,
    /// The tree of the leaves that the records themselves give; none once one of them is not here.
    recomputed: Option<Tree>,
    waiting: BTreeMap<u64, Vec<Waiting>>,
    older: Vec<(u64, Hash, Vec<String>)>,
    certificates: BTreeMap<i64, Vec<Vec<u8>>>,
    resources: BTreeMap<i64, Vec<u8>>,
    lanes: Lanes,
    mismatches: Vec<Mismatch>,
    gone: Vec<u64>,
    /// Gone, and removed by retention as the control plane says now.
    removed: Vec<u64>,
    /// Entries before this index were removed by retention, as it is on the record.
    pruned: u64,
    /// Indices at which a process of the control plane began to record.
    starts: BTreeSet<u64>,
    control: String,
    report: Report,
    is_ended: bool,
    last_good: u64,
    rewritten: bool,
}

struct Start {
    bundle: BundleStart,
    key: Key,
    workloads: Option<PeerVerifier>,
    final_root: Option<Hash>,
}

impl Verification {
    pub(crate) fn new(trust: Trust) -> Self {
        Self {
            trust,
            start: None,
            tree: Tree::default(),
            recomputed: None,
            waiting: BTreeMap::new(),
            older: Vec::new(),
            certificates: BTreeMap::new(),
            resources: BTreeMap::new(),
            lanes: Lanes::default(),
            mismatches: Vec::new(),
            gone: Vec::new(),
            removed: Vec::new(),
            pruned: 0,
            starts: BTreeSet::new(),
            control: String::new(),
            report: Report::default(),
            is_ended: false,
            last_good: 0,
            rewritten: false,
        }
    }

    /// Takes the next line.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        let line = serde_json::from_str(text).map_err(|error| {
            Failure::Problems(format!("a line of the bundle cannot be read: {error}"))
        })?;
        match line {
            BundleLine::Bundle(start) => self.begin(start),
            BundleLine::Checkpoint(checkpoint) => self.checkpoint(&checkpoint),
            BundleLine::Witness(witness) => self.witness(witness),
            BundleLine::Certificates { id, chain } => {
                let chain: Result<Vec<_>, _> =
                    chain.iter().map(|der| STANDARD.decode(der)).collect();
                self.certificates.insert(id, chain.unwrap_or_default());
                Ok(())
            }
            BundleLine::Head(head) => self.head(&head),
            BundleLine::Resource { id, bytes } => {
                self.resources.insert(id, STANDARD.decode(bytes).unwrap_or_default());
                Ok(())
            }
            BundleLine::Record(record) => self.record(&record),
            BundleLine::Gone { index, leaf, retention } => self.gone(index, &leaf, retention),
            BundleLine::Unlogged { id, found_at } => {
                let (code, what) = match self.lanes.knows(&id) {
                    true => (Code::DuplicatedRecord, "a second row of it"),
                    false => (Code::UnloggedRecord, "it"),
                };
                let detail = format!("{what} had not come through the log; found {found_at}");
                self.report.add(Finding::of_record(code, &id, detail));
                Ok(())
            }
            BundleLine::End { records } => {
                self.is_ended = records == self.report.records + self.report.erased;
                Ok(())
            }
        }
    }

    fn begin(&mut self, bundle: BundleStart) -> Result<(), Failure> {
        let unreadable =
            |what: &str| Failure::Problems(format!("the bundle's {what} cannot be read"));
        if bundle.version != 1 || self.start.is_some() {
            return Err(unreadable("first line"));
        }
        let key = Key::parse(&bundle.key).map_err(|_| unreadable("log key"))?;
        if let Some(pinned) = self.trust.key.as_ref().filter(|pinned| **pinned != key) {
            let detail = format!("the log's key is {key}, and was {pinned} before");
            self.report.add(Finding::new(Code::SwappedKey, detail));
        }
        if let Some(pinned) = self.trust.authorities.as_ref().filter(|p| **p != bundle.authorities)
        {
            let of =
                |pem: &str| picket_certs::leaf::hex(&picket_ledger::tree::sha256(pem.as_bytes()));
            let (new, old) = (of(&bundle.authorities), of(pinned));
            let detail =
                format!("the mesh's authorities are {new:.16}…, and were {old:.16}… before");
            self.report.add(Finding::new(Code::SwappedKey, detail));
        }
        let pem = self.trust.authorities.as_ref().unwrap_or(&bundle.authorities);
        let trust_domain = bundle.trust_domain.parse();
        let workloads = trust_domain.ok().and_then(|domain| {
            let bundle = TrustBundle::from_pem(domain, pem.as_bytes()).ok()?;
            Some(PeerVerifier::new(bundle, Expect::AnyWorkload))
        });
        let edge: Option<Vec<Vec<Hash>>> = bundle
            .edge
            .iter()
            .map(|tile| tile.iter().map(|hash| hex::decode(hash)).collect())
            .collect();
        let edge = edge.ok_or_else(|| unreadable("tiles"))?;
        self.tree = Tree::restore(bundle.first, edge).map_err(|_| unreadable("tiles"))?;
        self.recomputed = Some(self.tree.clone());
        self.lanes.begin(bundle.first == 0);
        let control = bundle.trust_domain.parse().ok();
        let control = control.and_then(|domain| SpiffeId::control_plane(&domain).ok());
        self.control = control.map(|id| id.to_string()).unwrap_or_default();
        let report = &mut self.report;
        (report.key, report.first, report.size) = (key.to_string(), bundle.first, bundle.size);
        report.made_at = bundle.made_at.clone();
        self.start = Some(Start { bundle, key, workloads, final_root: None });
        for known in std::mem::take(&mut self.trust.known) {
            self.known(&known)?;
        }
        Ok(())
    }

    fn started(&mut self) -> Result<&mut Start, Failure> {
        self.start.as_mut().ok_or_else(|| Failure::Problems("this is no bundle".to_owned()))
    }

    fn checkpoint(&mut self, line: &BundleCheckpoint) -> Result<(), Failure> {
        let pinned = self.trust.key.clone();
        let start = self.started()?;
        let signed = SignedCheckpoint::parse(&line.note).map_err(|error| words(&error));
        let signed =
            match signed.and_then(|s| s.check(&start.key).map(|()| s).map_err(|e| words(&e))) {
                Ok(signed) => signed,
                Err(error) => {
                    // Those of before the key was swapped are said to be so already; one stands for all
                    // others.
                    let is_swapped = pinned.is_some_and(|pinned| pinned != start.key);
                    if !is_swapped && self.report.of(Code::ForgedCheckpoint).is_none() {
                        self.report.add(Finding::new(Code::ForgedCheckpoint, error));
                    }
                    return Ok(());
                }
            };
        let (size, root) = (signed.checkpoint.size, signed.checkpoint.root);
        let is_final = size == start.bundle.size;
        if is_final {
            start.final_root = Some(root);
        }
        self.report.checkpoints += 1;
        if is_final {
            self.report.root = hex::encode(&root);
            self.report.checkpoint.clone_from(&line.note);
        }
        if size < self.tree.size() {
            self.older.push((size, root, line.proof.clone()));
        } else {
            let by = "a checkpoint of its own".to_owned();
            self.compare(size, Waiting { by, root, is_own: true });
        }
        Ok(())
    }

    fn witness(&mut self, witness: LogWitness) -> Result<(), Failure> {
        if let Some(refusal) = &witness.refusal {
            let detail = format!("the witness {} refuses the log: {refusal}", witness.spiffe_id);
            self.report.add(Finding::new(Code::WitnessRefuses, detail));
        }
        let is_cosigned = Key::parse(&witness.key).is_ok_and(|key| {
            SignedCheckpoint::parse(&witness.note).is_ok_and(|s| s.cosigned_at(&key).is_some())
        });
        self.report.witnesses.push(WitnessReport {
            spiffe_id: witness.spiffe_id.clone(),
            key: witness.key.clone(),
            size: witness.size,
            cosigned: is_cosigned,
            refusal: witness.refusal.clone(),
        });
        if witness.note.is_empty() {
            return Ok(());
        }
        if !is_cosigned {
            let detail = format!("the cosignature of {} does not fit", witness.spiffe_id);
            self.report.add(Finding::new(Code::ForgedCheckpoint, detail));
            return Ok(());
        }
        let by = format!("the witness {}", witness.spiffe_id);
        self.known(&Known { by, note: witness.note })
    }

    fn head(&mut self, line: &BundleHead) -> Result<(), Failure> {
        self.started()?;
        let signature = STANDARD.decode(&line.signature).unwrap_or_default();
        let hash: Hash = hex::decode(&line.hash).unwrap_or_default();
        let head = ChainHead {
            boot: line.boot.clone(),
            lane: line.lane,
            position: line.position,
            hash: hash.to_vec(),
            emitted: line.emitted,
            open: line.open,
            lost: line.lost,
            time_ms: line.time_ms,
            signature,
        };
        let chain =
            self.certificates.get(&line.certificates).map(Vec::as_slice).unwrap_or_default();
        let workloads = self.start.as_ref().and_then(|start| start.workloads.as_ref());
        let checked = match workloads {
            Some(workloads) => HeadSigner::new(chain)
                .check(workloads, &line.emitter, &head)
                .map_err(|error| words(&error)),
            None => Err("the mesh's authorities cannot be read".to_owned()),
        };
        self.report.heads += 1;
        match checked {
            Ok(()) => self.lanes.head(&line.emitter, &head, hash),
            Err(error) => self.report.add(Finding::of_place(
                Code::ForgedHead,
                (&line.emitter, &line.boot, line.lane.into()),
                i64::try_from(line.position).ok(),
                error,
            )),
        }
        Ok(())
    }

    fn record(&mut self, line: &BundleRecord) -> Result<(), Failure> {
        self.started()?;
        let span = line.span.as_ref().map(|span| STANDARD.decode(span).unwrap_or_default());
        let salt = line.salt.as_ref().map(|salt| STANDARD.decode(salt).unwrap_or_default());
        let resource = self.resources.get(&line.resource).map(Vec::as_slice).unwrap_or_default();
        let commitment = match (&salt, &span) {
            (Some(salt), Some(span)) => {
                self.report.records += 1;
                entry::commitment(salt, resource, span)
            }
            _ => {
                self.report.erased += 1;
                line.commitment.as_deref().and_then(hex::decode).unwrap_or_default()
            }
        };
        let entry = Entry {
            emitter: line.emitter.clone(),
            boot: line.boot.clone(),
            lane: line.lane,
            sequence: line.sequence,
            position: line.position,
            commitment,
        };
        let (computed, id) = (entry.leaf(), entry.id());
        if entry.sequence == 1 && entry.emitter == self.control {
            self.starts.insert(line.index);
        }
        let logged: Hash = hex::decode(&line.leaf).unwrap_or_default();
        let is_altered = computed != logged;
        let is_duplicate = !self.lanes.sequence(&entry);
        if is_altered || is_duplicate {
            self.mismatches.push(Mismatch {
                index: line.index,
                id: id.clone(),
                computed,
                logged,
                is_duplicate,
            });
        }
        if !is_duplicate {
            let link = Link::of(&entry, span.as_deref(), is_altered);
            if let Some(through) = link.facts.pruned
                && entry.emitter == self.control
                && !is_altered
            {
                self.pruned = self.pruned.max(through);
            }
            self.lanes.record(&id, link, &mut self.report);
        }
        self.push(logged, Some(computed));
        Ok(())
    }

    fn gone(&mut self, index: u64, leaf: &str, retention: bool) -> Result<(), Failure> {
        self.started()?;
        match retention {
            true => self.removed.push(index),
            false => self.gone.push(index),
        }
        self.push(hex::decode(leaf).unwrap_or_default(), None);
        Ok(())
    }

    /// Adds a leaf, after comparing what was signed of the tree before it.
    fn push(&mut self, logged: Hash, computed: Option<Hash>) {
        self.settle();
        self.tree.push(logged, &mut Vec::new());
        match (&mut self.recomputed, computed) {
            (Some(tree), Some(leaf)) => tree.push(leaf, &mut Vec::new()),
            (recomputed, _) => *recomputed = None,
        }
    }

    fn settle(&mut self) {
        let size = self.tree.size();
        let Some(waiting) = self.waiting.remove(&size) else { return };
        let root = self.tree.root();
        for Waiting { by, root: signed, is_own } in waiting {
            if signed == root {
                self.last_good = self.last_good.max(size);
                continue;
            }
            if !is_own {
                let detail = format!("its first {size} entries are not those that {by} has seen");
                self.report.add(Finding::new(Code::ForkedLog, detail));
            } else if !std::mem::replace(&mut self.rewritten, true) {
                let good = self.last_good;
                let detail = format!(
                    "the hashes of the log do not give the root that was signed for {size} entries \
                     (up to {good} they do)"
                );
                let is_tiles = self.recomputed.as_ref().is_some_and(|tree| tree.root() == signed);
                let code = if is_tiles { Code::AlteredTiles } else { Code::ForkedLog };
                self.report.add(Finding::new(code, detail));
            }
        }
    }

    /// The end: what was found.
    pub(crate) fn finish(mut self) -> Result<Report, Failure> {
        self.settle();
        let start =
            self.start.take().ok_or_else(|| Failure::Problems("this is no bundle".to_owned()))?;
        if !self.is_ended || self.tree.size() != start.bundle.size {
            let detail = "it breaks off: it does not hold all that it says".to_owned();
            self.report.add(Finding::new(Code::TruncatedBundle, detail));
        }
        let Some(root) = start.final_root else {
            let detail = "no checkpoint is signed for the whole log".to_owned();
            self.report.add(Finding::new(Code::ForgedCheckpoint, detail));
            return Ok(self.report);
        };
        for (size, older, path) in std::mem::take(&mut self.older) {
            let path: Option<Vec<Hash>> = path.iter().map(|hash| hex::decode(hash)).collect();
            let is_shown = path.is_some_and(|path| {
                proof::verify_consistency(size, start.bundle.size, &older, &root, &path)
            });
            if !is_shown {
                let detail =
                    format!("the log does not continue its own checkpoint of {size} entries");
                self.report.add(Finding::new(Code::ForkedLog, detail));
            }
        }
        self.name_mismatches();
        self.judge_removed(start.bundle.first);
        // Of a log that lost records nothing is on its way any more.
        let made_at = Some(start.bundle.made_at.as_str()).filter(|_| self.gone.is_empty());
        self.name_gone(start.bundle.size);
        let lanes = std::mem::take(&mut self.lanes);
        lanes.finish(made_at, &mut self.report);
        self.report.settle();
        Ok(self.report)
    }
}
