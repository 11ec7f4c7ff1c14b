//! Types that hold a secret cannot be formatted, or show nothing of it: whatever is logged by mistake
//! then says nothing.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use picket_api::v1;
use picket_certs::subject::SubjectKey;
use picket_certs::{CertificateAuthority, NewKey};

/// Does not compile if one of the types can be formatted: then there would be two `marker`s to choose
/// from.
macro_rules! cannot_be_formatted {
    ($($type:ty),*) => {$(
        const _: fn() = || {
            trait Formatted<Which> {
                fn marker() {}
            }
            struct Always;
            struct OnlyWithDebug;
            impl<T: ?Sized> Formatted<Always> for T {}
            impl<T: ?Sized + Debug> Formatted<OnlyWithDebug> for T {}
            let _ = <$type as Formatted<_>>::marker;
        };
    )*};
}

cannot_be_formatted!(SubjectKey, NewKey, CertificateAuthority);

/// Types of fields that hold secrets.
const SECRET_TYPES: [&str; 7] = [
    "Zeroizing<",
    "PrivateKeyDer",
    "KeyPair",
    "hmac::Key",
    "SubjectKey",
    "HeaderMap",
    "TokenFacts",
];
/// Names of fields that do, if they are text or bytes.
const SECRET_NAMES: [&str; 6] =
    ["token", "secret", "password", "cookie", "credentials", "authorization"];
const TEXTS: [&str; 8] =
    ["String", "Vec<u8>", "Box<str>", "Arc<str>", "Bytes", "&'a str", "&str", "HeaderValue"];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("generated") {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The lines of types with a derived `Debug` that hold a secret.
fn formatted_secrets(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut is_derived, mut is_inside) = (false, false);
    for line in source.lines() {
        let code = line.split("//").next().unwrap_or_default().trim();
        if code.starts_with("#[derive(") {
            is_derived = code.contains("Debug");
        } else if code.contains("struct ") || code.contains("enum ") {
            is_inside = is_derived && (code.ends_with('{') || code.ends_with(");"));
            is_derived = false;
        } else if line.starts_with('}') {
            is_inside = false;
        }
        let field = code.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
        let field = field.trim_start_matches("pub ");
        let parts = field.split_once(": ").or_else(|| field.split_once('('));
        let (name, kind) = parts.unwrap_or_default();
        let is_type = |secret: &str| {
            let before = kind.find(secret).map(|at| &kind[..at]);
            before.is_some_and(|before| !before.ends_with(|c: char| c.is_alphanumeric()))
        };
        let is_secret = SECRET_TYPES.into_iter().any(is_type)
            || (SECRET_NAMES.contains(&name) && TEXTS.iter().any(|text| kind.contains(text)));
        if is_inside && is_secret {
            found.push(code.to_owned());
        }
        if code.ends_with(");") {
            is_inside = false;
        }
    }
    found
}

#[test]
fn no_type_that_holds_a_secret_derives_debug() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for part in ["api", "certs", "cli", "control", "policy", "policy-files", "proxy", "settings"] {
        sources(&root.join(part).join("src"), &mut files);
    }
    assert!(files.len() > 100, "{}", files.len());
    let mut found = Vec::new();
    for file in files {
        let lines = formatted_secrets(&fs::read_to_string(&file).unwrap());
        found.extend(lines.into_iter().map(|line| format!("{}: {line}", file.display())));
    }
    assert!(found.is_empty(), "{found:#?}");
    // It would be seen.
    for bad in [
        "#[derive(Debug)]\nstruct A {\n    pub(crate) key: Zeroizing<Vec<u8>>,\n}",
        "#[derive(Clone, Debug)]\npub struct A {\n    token: Option<String>,\n}",
        "#[derive(Debug)]\nstruct A(KeyPair);",
    ] {
        assert_eq!(formatted_secrets(bad).len(), 1, "{bad}");
    }
    let good = "#[derive(Clone)]\nstruct A {\n    token: String,\n}\n#[derive(Debug)]\nstruct B {\n    tokens: u64,\n}";
    assert!(formatted_secrets(good).is_empty());
}

#[test]
fn what_can_be_formatted_shows_nothing_of_its_secret() {
    let secret = "canaryq7-formatted";
    let texts = [
        format!("{:?}", v1::JoinRequest { token: secret.to_owned(), ..Default::default() }),
        format!("{:?}", v1::Subjects { mode: "hash".to_owned(), key: secret.as_bytes().to_vec() }),
        format!(
            "{:?}",
            picket_control::operator::JoinToken {
                token: secret.to_owned(),
                id: String::new(),
                spiffe_id: String::new(),
                expires_at: String::new(),
            }
        ),
    ];
    for text in texts {
        assert!(!text.contains(secret) && !text.contains("99, 97, 110"), "{text}");
    }
}
