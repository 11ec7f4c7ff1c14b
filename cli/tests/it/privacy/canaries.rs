//! Secrets that are like no other text, and where one of them is found: as it is, or in base64 at any
//! offset, hexadecimal or percent-encoding.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What every canary begins with.
const MARK: &str = "canaryq7";

/// Every secret that was planted, and where.
#[derive(Default)]
pub(super) struct Canaries {
    planted: BTreeMap<String, String>,
    /// Secrets that somebody else made, and their positions.
    others: Vec<(String, String)>,
}

/// A place in which canaries are looked for.
pub(super) struct Place {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

impl From<(String, Vec<u8>)> for Place {
    fn from((name, bytes): (String, Vec<u8>)) -> Self {
        Self { name, bytes }
    }
}

impl Place {
    /// Every file below a directory, but what the test itself wrote there: configurations, policies and
    /// join tokens.
    pub(super) fn files(directory: &Path) -> Vec<Self> {
        let mut found = Vec::new();
        let mut directories = vec![directory.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                let is_own = path.extension().is_some_and(|e| e == "yaml" || e == "token");
                if path.is_dir() {
                    directories.push(path);
                } else if path.is_file() && !is_own {
                    // A segment may be acknowledged and gone by now.
                    let Ok(mut bytes) = fs::read(&path) else { continue };
                    // Most of a segment; no canary has any.
                    bytes.retain(|byte| *byte != 0);
                    found.push(Self { name: path.display().to_string(), bytes });
                }
            }
        }
        found
    }

    pub(super) fn contains(&self, text: &str) -> bool {
        memchr::memmem::find(&self.bytes, text.as_bytes()).is_some()
    }
}

/// A canary that got out.
pub(super) struct Finding {
    place: String,
    form: &'static str,
    position: String,
    around: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, form, position, around } = self;
        write!(f, "{place}: {position} ({form}): {around}")
    }
}

impl Canaries {
    /// A new secret for a position.
    pub(super) fn plant(&mut self, position: impl Into<String>) -> String {
        let canary = format!("{MARK}{:020}", fastrand::u64(..));
        self.planted.insert(canary.clone(), position.into());
        canary
    }

    /// A secret that somebody else made.
    pub(super) fn secret(&mut self, position: impl Into<String>, secret: &str) {
        self.others.push((secret.to_owned(), position.into()));
    }

    /// What was planted in a position.
    pub(super) fn of(&self, position: &str) -> &str {
        let found = self.planted.iter().find(|(_, planted)| *planted == position);
        found.unwrap_or_else(|| panic!("nothing was planted in {position}")).0
    }

    /// Where which of them are.
    pub(super) fn look_in(&self, places: &[Place]) -> Vec<Finding> {
        assert!(self.planted.len() > 10 && !places.is_empty());
        let mut needles = forms(MARK);
        for (secret, _) in &self.others {
            needles.extend(forms(secret));
        }
        let mut findings = Vec::new();
        for place in places {
            for (form, needle) in &needles {
                for at in memchr::memmem::find_iter(&place.bytes, needle) {
                    let end = (at + 160).min(place.bytes.len());
                    let around = String::from_utf8_lossy(&place.bytes[at.saturating_sub(80)..end]);
                    let known = self.planted.iter().find(|(canary, _)| around.contains(*canary));
                    let other = self.others.iter().find(|(secret, _)| around.contains(secret));
                    let position = known.map(|(_, position)| position).or(other.map(|(_, p)| p));
                    findings.push(Finding {
                        place: place.name.clone(),
                        form,
                        position: position.cloned().unwrap_or_else(|| "?".to_owned()),
                        around: around.escape_debug().to_string(),
                    });
                }
            }
        }
        findings
    }
}

/// The forms in which a text may stand somewhere.
fn forms(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let each =
        |write: &dyn Fn(u8) -> String| text.bytes().map(write).collect::<String>().into_bytes();
    let mut forms = vec![
        ("as it is", text.as_bytes().to_vec()),
        ("upper case", text.to_uppercase().into_bytes()),
        ("hexadecimal", each(&|byte| format!("{byte:02x}"))),
        ("hexadecimal", each(&|byte| format!("{byte:02X}"))),
        ("percent-encoded", each(&|byte| format!("%{byte:02x}"))),
        ("percent-encoded", each(&|byte| format!("%{byte:02X}"))),
        ("as numbers", each(&|byte| format!("{byte}, "))),
    ];
    for offset in 0..3 {
        let encoded = STANDARD.encode([vec![0; offset], text.as_bytes().to_vec()].concat());
        // Digits that other bytes have no part in.
        let (first, last) = ((offset * 8).div_ceil(6), (offset + text.len()) * 8 / 6);
        let digits = &encoded[first..last];
        forms.push(("base64", digits.as_bytes().to_vec()));
        let url_safe = digits.replace('+', "-").replace('/', "_");
        if url_safe != digits {
            forms.push(("base64url", url_safe.into_bytes()));
        }
    }
    forms
}

#[test]
fn a_canary_is_found_in_every_form_and_named() {
    let mut canaries = Canaries::default();
    for number in 0..20 {
        canaries.plant(format!("position {number}"));
    }
    canaries.secret("join token", "pkt_abcdefghijk");
    let canary = canaries.of("position 7").to_owned();
    let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
    let percent: String = canary.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let mut texts = vec![
        format!("x{canary}y"),
        hex,
        percent,
        "a pkt_abcdefghijk".to_owned(),
        format!("{:?}", canary.as_bytes()),
    ];
    for prefix in ["", "a", "ab", "abc"] {
        texts.push(STANDARD.encode(format!("{prefix}{canary}")));
    }
    for text in texts {
        let place = Place::from(("here".to_owned(), text.clone().into_bytes()));
        assert_eq!(canaries.look_in(&[place]).len(), 1, "{text}");
    }
    let place = Place::from(("here".to_owned(), format!("x{canary}y").into_bytes()));
    assert!(canaries.look_in(&[place])[0].to_string().starts_with("here: position 7 (as it is)"));
    let nothing = Place::from(("here".to_owned(), b"canary q7, pkt_abc".to_vec()));
    assert!(canaries.look_in(&[nothing]).is_empty());
}
