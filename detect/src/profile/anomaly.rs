//! What profiles look at, and what is unusual of it.

use std::borrow::Cow;
use std::sync::Arc;

use picket_documents::yaml::At;
use serde::{Deserialize, Serialize};

use crate::alert::Level;
use crate::rule::{Header, Settings};
use crate::set::{RuleKind, Summary};

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "their titles say it")]
pub enum Feature {
    NewCaller,
    NewCall,
    NewPrincipal,
    MoreRequests,
    FewerRequests,
    Errors,
    Refusals,
    Slow,
    Upload,
    Download,
    Ratio,
    LargeRequest,
    LargeResponse,
    FanOut,
    Regular,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::NewCaller,
        Self::NewCall,
        Self::NewPrincipal,
        Self::MoreRequests,
        Self::FewerRequests,
        Self::Errors,
        Self::Refusals,
        Self::Slow,
        Self::Upload,
        Self::Download,
        Self::Ratio,
        Self::LargeRequest,
        Self::LargeResponse,
        Self::FanOut,
        Self::Regular,
    ];

    /// The detector's id, what an alert of it is called, how bad that is, and a tag.
    fn described(self) -> (&'static str, &'static str, Level, &'static str) {
        use Level::{High, Low, Medium};
        match self {
            Self::NewCaller => (
                "anomaly.new_caller",
                "A caller that this service never had",
                Medium,
                "attack.lateral-movement",
            ),
            Self::NewCall => (
                "anomaly.new_call",
                "A call that this caller never made",
                Medium,
                "attack.lateral-movement",
            ),
            Self::NewPrincipal => (
                "anomaly.new_principal",
                "A principal that this service never had",
                Low,
                "attack.initial-access",
            ),
            Self::MoreRequests => {
                ("anomaly.more_requests", "More requests than usual", Medium, "attack.impact")
            }
            Self::FewerRequests => {
                ("anomaly.fewer_requests", "Fewer requests than usual", Low, "attack.impact")
            }
            Self::Errors => ("anomaly.errors", "More errors than usual", Medium, "attack.impact"),
            Self::Refusals => (
                "anomaly.refusals",
                "More requests that are answered 4xx than usual",
                Medium,
                "attack.reconnaissance",
            ),
            Self::Slow => ("anomaly.slow", "More slow requests than usual", Low, "attack.impact"),
            Self::Upload => {
                ("anomaly.upload", "Larger requests than usual", Medium, "attack.exfiltration")
            }
            Self::Download => {
                ("anomaly.download", "Larger responses than usual", Medium, "attack.exfiltration")
            }
            Self::Ratio => (
                "anomaly.ratio",
                "Requests and responses in another proportion than usual",
                Medium,
                "attack.exfiltration",
            ),
            Self::LargeRequest => (
                "anomaly.large_request",
                "A request far larger than any before",
                High,
                "attack.exfiltration",
            ),
            Self::LargeResponse => (
                "anomaly.large_response",
                "A response far larger than any before",
                High,
                "attack.exfiltration",
            ),
            Self::FanOut => (
                "anomaly.fan_out",
                "A caller of more services than usual",
                High,
                "attack.discovery",
            ),
            Self::Regular => (
                "anomaly.regular",
                "Calls as regular as a machine's",
                Medium,
                "attack.command-and-control",
            ),
        }
    }

    /// As a rule is listed.
    pub fn summary(self) -> Summary {
        let header = self.header();
        Summary {
            id: header.id,
            title: header.title,
            kind: RuleKind::Profile,
            level: header.level,
            tags: header.tags,
            false_positives: header.false_positives,
            file: header.file.to_string(),
            line: header.at.line,
            alerts: true,
            matching: Vec::new(),
            other: Vec::new(),
            respond: None,
            controls: Vec::new(),
            notify: Vec::new(),
            budget: None,
        }
    }

    /// As a rule has it.
    pub(crate) fn header(self) -> Header {
        let (id, title, level, tag) = self.described();
        let is_item = matches!(self, Self::NewCaller | Self::NewCall | Self::NewPrincipal);
        let hours = if is_item { 24 } else { 6 };
        Header {
            file: Arc::from("profiles"),
            at: At { line: 1, column: 1 },
            id: id.to_owned(),
            name: None,
            title: title.to_owned(),
            level,
            tags: vec![tag.to_owned()],
            false_positives: vec![
                "What is new and meant: a deployment, a campaign, a migration".to_owned(),
            ],
            settings: Settings { suppression: hours * 3_600_000_000_000, ..Settings::default() },
        }
    }
}

/// What is unusual, and what would have been usual.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// What was looked at.
    pub feature: Feature,
    /// The item, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub of: Option<String>,
    /// The interval in which it lies nine times of ten, or always so far.
    pub expected: (f64, f64),
    /// What came.
    pub observed: f64,
    /// Of both.
    pub unit: Cow<'static, str>,
    /// How long it took to come.
    pub over_seconds: u64,
    /// How strong the evidence was, and how strong it had to be: natural logarithms of likelihood ratios.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub evidence: Option<(f64, f64)>,
    /// Up to three records.
    #[serde(skip)]
    pub records: Vec<String>,
}

impl Anomaly {
    /// What was expected, and what came: for people.
    pub fn in_words(&self) -> (String, String) {
        let (low, high) = self.expected;
        let number = |n: f64| {
            if n >= 100.0 || n.fract() == 0.0 { format!("{n:.0}") } else { format!("{n:.2}") }
        };
        let over = match self.over_seconds {
            0 => String::new(),
            seconds => format!(" in {} min", seconds.div_ceil(60)),
        };
        if let Some(of) = &self.of
            && self.feature != Feature::Regular
        {
            return (format!("one of {high:.0} that are known"), of.clone());
        }
        let expected = if high == f64::MAX {
            format!("at least {}", number(low))
        } else {
            format!("{} to {}", number(low), number(high))
        };
        let of = self.of.as_ref().map_or_else(String::new, |of| format!(": {of}"));
        (format!("{expected} {}", self.unit), format!("{}{over}{of}", number(self.observed)))
    }

    pub(super) fn single(
        feature: Feature,
        above: f64,
        observed: f64,
        unit: &'static str,
        records: Vec<String>,
    ) -> Self {
        let unit = Cow::Borrowed(unit);
        let (of, expected, evidence) = (None, (0.0, above), None);
        Self { feature, of, expected, observed, unit, over_seconds: 0, evidence, records }
    }

    pub(super) fn new_item(feature: Feature, item: &str, known: f64, records: Vec<String>) -> Self {
        let mut new = Self::single(feature, known, known + 1.0, "different ones", records);
        new.of = Some(item.to_owned());
        new
    }
}
