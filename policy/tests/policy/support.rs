//! Sets and requests in few words.

use picket_policy::explain::{Answer, Explainer};
use picket_policy::jwt::NoRemoteKeys;
use picket_policy::{DefaultAction, Document, MtlsMode, PolicySet, Settings};

/// A time for tokens: 2026-11-21T00:00:00Z.
pub(crate) const NOW: u64 = 1_795_219_200;

/// Plain text is let in, so that tables can say "no identity" without saying "no mTLS".
pub(crate) fn settings() -> Settings {
    Settings { default_mtls: MtlsMode::Permissive, ..Settings::default() }
}

/// As Istio has it out of the box.
pub(crate) fn istio_settings() -> Settings {
    Settings { default_action: DefaultAction::Allow, ..settings() }
}

pub(crate) fn set_with(yaml: &str, settings: Settings) -> PolicySet {
    PolicySet::parse(&[Document::whole("policies.yaml", yaml)], settings)
        .unwrap_or_else(|diagnostics| panic!("{diagnostics}\n---\n{yaml}"))
}

pub(crate) fn set(yaml: &str) -> PolicySet {
    set_with(yaml, settings())
}

pub(crate) fn ask(set: &PolicySet, request: &str) -> Answer {
    Explainer::new(set, &NoRemoteKeys, NOW).answer_json(request)
}
