//! What a verification finds, and how it is named.

use serde::Serialize;

/// What is wrong. The names are an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Code {
    /// The log or the mesh has another key than it had.
    SwappedKey,
    /// The log is shorter than it was.
    RolledBackDatabase,
    /// The log does not continue what was signed or seen.
    ForkedLog,
    /// A checkpoint or cosignature that its key did not make.
    ForgedCheckpoint,
    /// The stored hashes are not those of the records, which are as they were signed.
    AlteredTiles,
    /// A witness does not cosign the log any more.
    WitnessRefuses,
    /// A head that its emitter did not sign.
    ForgedHead,
    /// A record that says something else than it did.
    AlteredRecord,
    /// A record that is not where it was.
    ReorderedRecord,
    /// A record that is there twice.
    DuplicatedRecord,
    /// A record that did not come through the log.
    UnloggedRecord,
    /// A record that is not there.
    MissingRecord,
    /// The last records are not there.
    TruncatedTail,
    /// A record that does not continue its lane's chain.
    BrokenChain,
    /// The bundle itself breaks off.
    TruncatedBundle,
}

impl Code {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::SwappedKey => "swapped key",
            Self::RolledBackDatabase => "rolled-back database",
            Self::ForkedLog => "forked log",
            Self::ForgedCheckpoint => "forged checkpoint",
            Self::AlteredTiles => "altered tiles",
            Self::WitnessRefuses => "witness refuses",
            Self::ForgedHead => "forged head",
            Self::AlteredRecord => "altered record",
            Self::ReorderedRecord => "reordered record",
            Self::DuplicatedRecord => "duplicated record",
            Self::UnloggedRecord => "unlogged record",
            Self::MissingRecord => "missing record",
            Self::TruncatedTail => "truncated tail",
            Self::BrokenChain => "broken chain",
            Self::TruncatedBundle => "truncated bundle",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Finding {
    pub(crate) code: Code,
    /// The record, if its name is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) record: Option<String>,
    /// The index in the log, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) emitter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) boot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lane: Option<i64>,
    /// In the lane's chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) position: Option<i64>,
    pub(crate) detail: String,
}

impl Finding {
    pub(crate) fn new(code: Code, detail: String) -> Self {
        Self {
            code,
            record: None,
            index: None,
            emitter: None,
            boot: None,
            lane: None,
            position: None,
            detail,
        }
    }

    pub(crate) fn of_record(code: Code, id: &str, detail: String) -> Self {
        Self { record: Some(id.to_owned()), ..Self::new(code, detail) }
    }

    pub(crate) fn of_place(
        code: Code,
        (emitter, boot, lane): (&str, &str, i64),
        position: Option<i64>,
        detail: String,
    ) -> Self {
        Self {
            emitter: Some(emitter.to_owned()),
            boot: Some(boot.to_owned()),
            lane: Some(lane),
            position,
            ..Self::new(code, detail)
        }
    }

    pub(crate) fn at(self, index: u64) -> Self {
        Self { index: Some(index), ..self }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code.words())?;
        if let Some(record) = &self.record {
            write!(f, " {record}")?;
        }
        if let (Some(emitter), Some(boot), Some(lane)) = (&self.emitter, &self.boot, self.lane) {
            write!(f, " ({emitter}, boot {boot}, lane {lane}")?;
            if let Some(position) = self.position {
                write!(f, ", position {position}")?;
            }
            f.write_str(")")?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// A witness as the bundle has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct WitnessReport {
    pub(crate) spiffe_id: String,
    pub(crate) key: String,
    /// Entries of the log that it cosigned last.
    pub(crate) size: u64,
    /// Whether its cosignature is there and fits.
    pub(crate) cosigned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refusal: Option<String>,
}

/// What came of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// `good` or `bad`.
    pub(crate) result: &'static str,
    /// The log's key.
    pub(crate) key: String,
    /// Entries of the log.
    pub(crate) size: u64,
    /// The first index that was looked at.
    pub(crate) first: u64,
    /// The signed root over all entries.
    pub(crate) root: String,
    /// When the bundle was made.
    pub(crate) made_at: String,
    /// Records that were checked.
    pub(crate) records: u64,
    /// Records that were erased: their entries are good.
    pub(crate) erased: u64,
    /// Records that retention removed.
    pub(crate) removed: u64,
    /// Records that a head tells of and that may still be on their way.
    pub(crate) pending: u64,
    /// Records that emitters declare lost after they were completed.
    pub(crate) declared_lost: u64,
    pub(crate) lanes: u64,
    pub(crate) heads: u64,
    pub(crate) checkpoints: u64,
    pub(crate) witnesses: Vec<WitnessReport>,
    pub(crate) findings: Vec<Finding>,
    /// Checkpoints that could not be compared: the bundle begins later.
    #[serde(skip)]
    pub(crate) uncompared: Vec<(u64, [u8; 32], String)>,
    /// The checkpoint of the whole log.
    #[serde(skip)]
    pub(crate) checkpoint: String,
}

impl Report {
    pub(crate) fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// The first finding of a kind.
    pub(crate) fn of(&self, code: Code) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.code == code)
    }

    /// In the order in which they should be read.
    pub(crate) fn settle(&mut self) {
        self.findings.sort();
        self.findings.dedup();
        self.result = if self.findings.is_empty() { "good" } else { "bad" };
    }
}
