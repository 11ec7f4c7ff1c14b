//! Trust domain aliases: a principal written for one of the mesh's trust domains means all of them.
//!
//! So a mesh can move to another trust domain without touching its policies. `cluster.local` always means the mesh's
//! own. Nothing happens unless the settings name the mesh's trust domain. Source: istio/istio
//! `pilot/pkg/security/trustdomain/bundle.go`.

use crate::document::Settings;

/// The mesh's trust domain and its aliases; empty if the settings name none.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustDomains(Vec<String>);

impl TrustDomains {
    pub(crate) fn new(settings: &Settings) -> Self {
        match &settings.trust_domain {
            Some(own) => {
                Self(std::iter::once(own).chain(&settings.trust_domain_aliases).cloned().collect())
            }
            None => Self::default(),
        }
    }

    /// The principal patterns that one written principal pattern stands for.
    pub(crate) fn expand_principal(&self, principal: &str) -> Vec<String> {
        let as_written = vec![principal.to_owned()];
        let Some((domain, rest)) = principal.split_once('/') else { return as_written };
        // Only a full identity names its trust domain; of `td/ns/foo/*` Istio does not say where the domain ends.
        if principal.split('/').count() != 5 || domain == "*" || self.0.is_empty() {
            return as_written;
        }
        if domain != "cluster.local" && !self.0.iter().any(|own| either_matches(own, domain)) {
            return as_written;
        }
        let mut expanded = Vec::with_capacity(self.0.len());
        for own in &self.0 {
            let pattern = match domain.strip_prefix('*') {
                Some(suffix) if own.ends_with(suffix) => principal.to_owned(),
                _ => format!("{own}/{rest}"),
            };
            if !expanded.contains(&pattern) {
                expanded.push(pattern);
            }
        }
        expanded
    }

    /// The trust domains that one written trust domain stands for.
    pub(crate) fn expand_domain(&self, domain: &str) -> Vec<String> {
        if self.0.iter().any(|own| own == domain) {
            self.0.clone()
        } else {
            vec![domain.to_owned()]
        }
    }
}

/// Equal, or one of them is a pattern that the other matches.
fn either_matches(a: &str, b: &str) -> bool {
    let matches = |value: &str, pattern: &str| {
        pattern.strip_suffix('*').is_some_and(|prefix| value.starts_with(prefix))
            || pattern.strip_prefix('*').is_some_and(|suffix| value.ends_with(suffix))
    };
    a == b || matches(a, b) || matches(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(own: &str, aliases: &[&str]) -> TrustDomains {
        TrustDomains::new(&Settings {
            trust_domain: Some(own.to_owned()),
            trust_domain_aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            ..Settings::default()
        })
    }

    #[test]
    fn principals_expand_as_istio_does() {
        // The cases of istio/istio pilot/pkg/security/trustdomain/bundle_test.go, in our own words.
        for (own, aliases, written, expanded) in [
            (
                "td2",
                &["td1"][..],
                "td1/ns/foo/sa/bar",
                &["td2/ns/foo/sa/bar", "td1/ns/foo/sa/bar"][..],
            ),
            ("td2", &["td1"], "td2/ns/foo/sa/bar", &["td2/ns/foo/sa/bar", "td1/ns/foo/sa/bar"]),
            (
                "td2",
                &["td1"],
                "cluster.local/ns/foo/sa/bar",
                &["td2/ns/foo/sa/bar", "td1/ns/foo/sa/bar"],
            ),
            ("td2", &["td1"], "td3/ns/foo/sa/bar", &["td3/ns/foo/sa/bar"]),
            ("td2", &["td1"], "*/ns/foo/sa/bar", &["*/ns/foo/sa/bar"]),
            ("td2", &["td1"], "*", &["*"]),
            ("td2", &["td1"], "td1/ns/foo/*", &["td1/ns/foo/*"]),
            ("td2", &["td1"], "td1/ns/foo/sa/*", &["td2/ns/foo/sa/*", "td1/ns/foo/sa/*"]),
            ("new-td", &["old-td"], "*-td/ns/foo/sa/bar", &["*-td/ns/foo/sa/bar"]),
            ("new-td", &["td"], "*-td/ns/foo/sa/bar", &["*-td/ns/foo/sa/bar", "td/ns/foo/sa/bar"]),
            ("td", &[], "cluster.local/ns/foo/sa/bar", &["td/ns/foo/sa/bar"]),
        ] {
            assert_eq!(domains(own, aliases).expand_principal(written), expanded, "{written}");
        }
    }

    #[test]
    fn a_mesh_that_names_no_trust_domain_expands_nothing() {
        let none = TrustDomains::new(&Settings::default());
        assert_eq!(
            none.expand_principal("cluster.local/ns/foo/sa/bar"),
            ["cluster.local/ns/foo/sa/bar"]
        );
        assert_eq!(none.expand_domain("cluster.local"), ["cluster.local"]);
    }

    #[test]
    fn domains_expand_only_if_they_are_the_meshs() {
        let domains = domains("td2", &["td1"]);
        assert_eq!(domains.expand_domain("td1"), ["td2", "td1"]);
        assert_eq!(domains.expand_domain("td3"), ["td3"]);
    }
}
