//! The audit store by itself, without a control plane around it: for the benches, and for whoever reads a copy.
//!
//! It is the very store of the control plane and goes through the same code; who may send or read is not asked here.

use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use opentelemetry_proto::tonic::resource::v1::Resource;
use picket_api::attributes as names;
use picket_certs::TrustDomain;
use prost::Message as _;

use crate::ingest::wire;
use crate::record::{self, Facts, resource_text};
use crate::search::{self, Scope};
use crate::store::records::{self, Batch, NewRecord};
use crate::store::search::{Page, find};
use crate::store::{Store, StoreError, groups};

/// Records of the audit trail in a file.
#[derive(Clone)]
pub struct AuditStore {
    store: Store,
    trust_domain: TrustDomain,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The database refused.
    #[error("the audit store refused")]
    Store(#[from] StoreError),
    /// The message, the filter or the fields to group by are not understood.
    #[error("{0}")]
    Malformed(String),
}

impl AuditStore {
    /// Opens the database of a control plane that is not running, creating or migrating it. Blocks.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, trust_domain: TrustDomain) -> Result<Self, AuditError> {
        Ok(Self { store: Store::open(path)?, trust_domain })
    }

    /// Stores an `ExportTraceServiceRequest` of one emitter and answers once it is durable: how many records are new.
    ///
    /// # Errors
    /// When it is not understood, or cannot be stored.
    pub async fn add(&self, spiffe_id: &str, message: Bytes) -> Result<u64, AuditError> {
        let malformed = |error: &dyn std::fmt::Display| AuditError::Malformed(error.to_string());
        let mut batches = Vec::new();
        for group in wire::split(&message).map_err(|error| malformed(&error))? {
            let resource =
                Resource::decode(group.resource.clone()).map_err(|error| malformed(&error))?;
            let boot = resource_text(&resource, names::SERVICE_INSTANCE_ID).unwrap_or_default();
            let mut batch = Batch {
                spiffe_id: spiffe_id.to_owned(),
                boot: boot.to_owned(),
                resource: group.resource,
                records: Vec::with_capacity(group.spans.len()),
                slow_us: None,
            };
            for bytes in group.spans {
                let facts = Facts::of_proxy(&bytes).map_err(|error| malformed(&error))?;
                batch.records.push(NewRecord { facts, bytes });
            }
            batches.push(batch);
        }
        let now = crate::clock::milliseconds(SystemTime::now());
        let stored = self.store.write(move |writing| {
            let mut new = 0;
            for batch in &batches {
                if let Ok(stored) = records::insert(writing, batch, now)? {
                    new += stored.new;
                }
            }
            Ok(new)
        });
        Ok(stored.await?)
    }

    /// The last records that match a filter, as JSON; fewer if that took longer than `patience`.
    ///
    /// # Errors
    /// When the filter is not understood, or the database refuses.
    pub async fn latest(
        &self,
        filter: &str,
        limit: usize,
        patience: Duration,
    ) -> Result<Vec<serde_json::Map<String, serde_json::Value>>, AuditError> {
        let expression = self.filter(filter)?;
        let read = self.store.read(move |connection| {
            let matches = find(connection, &expression, Page::Latest, limit, patience)?;
            let records = matches.found.iter().map(|f| record::json(&f.resource, &f.span));
            let records: Option<Vec<_>> = records.collect();
            records.ok_or(StoreError::Unreadable("an audit record"))
        });
        Ok(read.await?)
    }

    /// How many groups there are, and how many records in all of them.
    ///
    /// # Errors
    /// When the filter or a field is not understood, it would take longer than `patience`, or the database refuses.
    pub async fn groups(
        &self,
        filter: &str,
        by: &[&str],
        patience: Duration,
    ) -> Result<(usize, u64), AuditError> {
        let expression = self.filter(filter)?;
        let by: Result<Vec<_>, _> = by.iter().map(|name| search::shared(name)).collect();
        let by = by.map_err(AuditError::Malformed)?;
        let read = self
            .store
            .read(move |connection| groups::group(connection, &expression, &by, patience));
        let groups = read.await?.map_err(|error| AuditError::Malformed(error.to_string()))?;
        Ok((groups.len(), groups.iter().map(|group| group.records).sum()))
    }

    /// Finishes every commit and stops. Blocks.
    pub fn close(&self) {
        self.store.close();
    }

    fn filter(&self, text: &str) -> Result<search::Expression, AuditError> {
        let scope = Scope { trust_domain: &self.trust_domain, now: SystemTime::now() };
        search::parse(text, scope).map_err(|error| AuditError::Malformed(error.to_string()))
    }
}
