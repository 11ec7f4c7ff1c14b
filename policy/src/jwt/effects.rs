//! What a token does to the request that carried it: headers it adds, and itself, which does not go on.
//!
//! Source: istio/api `security/v1/jwt.proto` (`forward_original_token`, `output_payload_to_header`,
//! `output_claim_to_headers`).

use std::borrow::Cow;

use http::header::COOKIE;
use http::header::InvalidHeaderValue;
use http::{HeaderMap, HeaderValue};

use super::locations::decode;
use super::{RequestRules, TokenLocation, VerifiedToken};

impl RequestRules {
    /// Brings the headers into the form in which they are forwarded and compared with rules. To be called for every
    /// request of the workload before it is decided, with its token if it has one: headers that only tokens may write
    /// are removed in any case.
    pub fn apply(&self, token: Option<&VerifiedToken>, headers: &mut HeaderMap) {
        for name in &self.reserved {
            headers.remove(name);
        }
        let Some(token) = token else { return };
        match self.to_strip(token) {
            Some(TokenLocation::Header { name, .. }) => {
                headers.remove(name);
            }
            Some(TokenLocation::Cookie(name)) => strip_cookie(name, headers),
            Some(TokenLocation::Query(_)) | None => {}
        }
        for (name, value) in &token.added {
            headers.insert(name, value.clone());
        }
    }

    /// The query in the form in which it is forwarded; `None` if nothing is left of it.
    pub fn apply_query<'q>(
        &self,
        token: Option<&VerifiedToken>,
        query: Option<&'q str>,
    ) -> Option<Cow<'q, str>> {
        let query = query?;
        let Some(TokenLocation::Query(name)) = token.and_then(|token| self.to_strip(token)) else {
            return Some(Cow::Borrowed(query));
        };
        let is_token = |pair: &str| {
            let key = pair.split_once('=').map_or(pair, |(key, _)| key);
            decode(key).is_ok_and(|key| key == **name)
        };
        let kept: Vec<&str> = query.split('&').filter(|pair| !is_token(pair)).collect();
        (!kept.is_empty()).then(|| Cow::Owned(kept.join("&")))
    }

    /// Puts a token into a request at a place where a rule for its issuer looks, as its client would have to.
    pub(crate) fn present(
        &self,
        token: &str,
        headers: &mut HeaderMap,
        query: &mut Option<String>,
    ) -> Result<(), InvalidHeaderValue> {
        let bearer = TokenLocation::bearer();
        match self.place_for(token).unwrap_or(&bearer) {
            TokenLocation::Header { name, prefix } => {
                headers.append(name, HeaderValue::from_str(&format!("{prefix}{token}"))?);
            }
            TokenLocation::Cookie(name) => {
                headers.append(COOKIE, HeaderValue::from_str(&format!("{name}={token}"))?);
            }
            TokenLocation::Query(name) => {
                let before = query.take().map_or_else(String::new, |query| query + "&");
                *query = Some(format!("{before}{name}={token}"));
            }
        }
        Ok(())
    }

    /// Where the token must be taken away from, if it is not to go on.
    fn to_strip(&self, token: &VerifiedToken) -> Option<&TokenLocation> {
        let (rule, _) = self.rules.get(token.rule)?;
        let (location, _) = self.locations.get(token.location)?;
        (!rule.forward).then_some(location)
    }
}

fn strip_cookie(name: &str, headers: &mut HeaderMap) {
    let sent: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for value in sent {
        let Ok(text) = value.to_str() else { continue };
        let is_token =
            |pair: &&str| pair.split_once('=').is_some_and(|(key, _)| key.trim() == name);
        let kept: Vec<&str> =
            text.split(';').filter(|pair| !is_token(pair)).map(str::trim).collect();
        if let (false, Ok(value)) = (kept.is_empty(), HeaderValue::from_str(&kept.join("; "))) {
            headers.append(COOKIE, value);
        }
    }
}
