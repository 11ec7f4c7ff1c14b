//! Recorded requests, read back as what policies can decide on.
//!
//! [`Trail`] fetches them from the control plane page by page, so that a long trail needs no memory; [`Entry`] is one
//! of them; [`Mesh`] is what the control plane says is in force now.

mod entry;
mod mesh;
mod shape;

use picket_control::operator::{AuditPage, AuditQuery};
use serde_json::{Map, Value};

use crate::client::Client;
use crate::exit::Failure;

pub(crate) use entry::{Entry, Then, Unread};
pub(crate) use mesh::{Decided, Mesh, Policies, short};
pub(crate) use shape::{is_variable, shape};

const PATH: &str = "/api/v1/audit/records";
/// How long one question may wait for records: less than the client waits for an answer.
const WAIT: &str = "20s";
/// Records of one page.
pub(crate) const PAGE: u32 = 5000;

/// A search of the audit records, page by page, oldest first.
pub(crate) struct Trail<'c> {
    client: &'c Client,
    query: AuditQuery,
    /// Records that are still wanted.
    wanted: usize,
    /// Records that were given out.
    given: usize,
    is_over: bool,
}

impl<'c> Trail<'c> {
    pub(crate) fn new(client: &'c Client, query: AuditQuery) -> Self {
        let query = AuditQuery { limit: Some(query.limit.unwrap_or(PAGE)), ..query };
        Self { client, query, wanted: usize::MAX, given: 0, is_over: false }
    }

    /// Only the first ones. Records stand in the order of their arrival, so that the same search finds the same first
    /// ones again, whatever has come meanwhile.
    pub(crate) fn first(self, wanted: usize) -> Self {
        Self { wanted, ..self }
    }

    /// How many records were given out.
    pub(crate) fn given(&self) -> usize {
        self.given
    }

    /// What the inbound proxies recorded that they decided.
    pub(crate) fn decisions(client: &'c Client, query: AuditQuery) -> Self {
        Self::new(client, AuditQuery { direction: Some("inbound".to_owned()), ..query })
    }

    /// The next page; none after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<AuditPage>, Failure> {
        if self.is_over {
            return Ok(None);
        }
        let mut page = ask(self.client, &self.query).await?;
        page.records.truncate(self.wanted - self.given);
        self.given += page.records.len();
        // The latest ones are one page.
        self.is_over = !page.more || self.query.latest == Some(true) || self.given == self.wanted;
        self.query.after = Some(page.next.clone());
        Ok(Some(page))
    }
}

/// The last records that match, at most so many, oldest first, and where to go on from them.
pub(crate) async fn latest(
    client: &Client,
    query: &AuditQuery,
    limit: u32,
) -> Result<AuditPage, Failure> {
    let mut query =
        AuditQuery { latest: Some(true), limit: Some(limit.clamp(1, PAGE)), ..query.clone() };
    let mut all: AuditPage = ask(client, &query).await?;
    let wanted = limit as usize;
    while all.more && all.records.len() < wanted {
        let rest = u32::try_from(wanted - all.records.len()).unwrap_or(PAGE);
        query = AuditQuery {
            latest: None,
            before: Some(all.previous),
            limit: Some(rest.min(PAGE)),
            ..query
        };
        let page = ask(client, &query).await?;
        all.records.splice(0..0, page.records);
        (all.previous, all.more) = (page.previous, page.more);
    }
    let surplus = all.records.len().saturating_sub(wanted);
    drop(all.records.drain(..surplus));
    Ok(all)
}

/// New records as they come.
pub(crate) struct Following<'c> {
    client: &'c Client,
    query: AuditQuery,
}

impl<'c> Following<'c> {
    /// What comes from now on.
    pub(crate) fn new(client: &'c Client, query: AuditQuery) -> Self {
        Self { client, query }
    }

    /// What comes after a cursor.
    pub(crate) fn after(client: &'c Client, query: AuditQuery, cursor: String) -> Self {
        Self { client, query: AuditQuery { after: Some(cursor), ..query } }
    }

    /// The next ones; none if nothing has come for a while.
    pub(crate) async fn next(&mut self) -> Result<Vec<Map<String, Value>>, Failure> {
        if self.query.after.is_none() {
            let now = latest(self.client, &self.query, 1).await?;
            self.query.after = Some(now.next);
        }
        let query =
            AuditQuery { limit: Some(PAGE), wait: Some(WAIT.to_owned()), ..self.query.clone() };
        let path = format!("{PATH}?{}", encoded(&query)?);
        let page: AuditPage = self.client.get_or_wait(&path).await?;
        self.query.after = Some(page.next);
        Ok(page.records)
    }
}

async fn ask(client: &Client, query: &AuditQuery) -> Result<AuditPage, Failure> {
    Ok(client.get(&format!("{PATH}?{}", encoded(query)?)).await?)
}

/// A time as it is asked for: RFC 3339, or so long ago.
pub(crate) fn time(text: Option<&str>, option: &str) -> Result<Option<String>, Failure> {
    let Some(text) = text else { return Ok(None) };
    if let Some(ago) = picket_settings::duration::parse(text) {
        let at = std::time::SystemTime::now().checked_sub(ago).unwrap_or(std::time::UNIX_EPOCH);
        let at = jiff::Timestamp::try_from(at).map_err(|error| Failure::of(&error))?;
        return Ok(Some(at.to_string()));
    }
    match text.parse::<jiff::Timestamp>() {
        Ok(_) => Ok(Some(text.to_owned())),
        Err(_) => Err(Failure::Usage(format!(
            "{option} {text:?} is neither a duration such as 90s or 24h nor a time such as \
             2026-01-31T12:00:00Z"
        ))),
    }
}

/// A time without its fractions: `2026-01-31 12:00:00`.
pub(crate) fn seconds(time: &str) -> String {
    time.get(..19).unwrap_or(time).replace('T', " ")
}

/// The query as it stands in a URL.
pub(crate) fn encoded(query: &AuditQuery) -> Result<String, Failure> {
    to_query(query)
}

/// Any plain query as it stands in a URL.
pub(crate) fn to_query(query: &impl serde::Serialize) -> Result<String, Failure> {
    let value = serde_json::to_value(query).map_err(|error| Failure::of(&error))?;
    let pairs: Vec<String> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| match value {
            serde_json::Value::String(text) => format!("{name}={}", percent(text)),
            other => format!("{name}={other}"),
        })
        .collect();
    Ok(pairs.join("&"))
}

/// RFC 3986 section 2.1: everything but unreserved characters.
pub(crate) fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_ago_or_exact() {
        let ago = time(Some("1h"), "--since").unwrap().unwrap();
        let at: jiff::Timestamp = ago.parse().unwrap();
        let seconds = jiff::Timestamp::now().as_second() - at.as_second();
        assert!((3599..=3601).contains(&seconds), "{seconds}");
        let exact = "2026-01-31T12:00:00Z";
        assert_eq!(time(Some(exact), "--since").unwrap().as_deref(), Some(exact));
        assert!(time(Some("yesterday"), "--since").is_err());
    }

    #[test]
    fn a_query_is_encoded() {
        let query = AuditQuery {
            source: Some("spiffe://a/b c".to_owned()),
            limit: Some(7),
            ..AuditQuery::default()
        };
        assert_eq!(encoded(&query).unwrap(), "limit=7&source=spiffe%3A%2F%2Fa%2Fb%20c");
    }
}
