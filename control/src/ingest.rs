//! Taking in audit records: an OTLP trace receiver that keeps what it is given.
//!
//! A record is accepted when its emitter is the very workload whose certificate the connection shows,
//! and it is numbered. The answer is given once everything accepted is durable; what was here already
//! is accepted again without being stored twice. Bytes are kept as they came.
//!
//! Specification: OTLP 1.x, `opentelemetry.proto.collector.trace.v1.TraceService`; numbering in
//! `docs/audit-attributes.md`.

pub(crate) mod wire;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use picket_api::attributes as names;
use picket_api::otlp::{RawCodec, TRACE_SERVICE};
use picket_api::v1::SignedHeads;
use prost::Message as _;
use tokio::sync::Semaphore;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};

use crate::clock;
use crate::control::Control;
use crate::journal::{Act, Event};
use crate::peer::{Peer, Workload};
use crate::record::{Facts, resource_text};
use crate::store::records::{self, Batch, ForeignBoot, NewRecord, Stored};

/// Largest message, decompressed.
const MAX_MESSAGE: usize = 16 << 20;

/// Messages that are taken in at once; whoever comes later waits before being read.
const AT_ONCE: usize = 8;

/// The metadata in which signed heads of lanes come.
const HEADS: &str = "picket-heads-bin";

/// Longest boot.
const MAX_BOOT: usize = 64;

/// The gRPC service of OTLP traces, without its decoding.
#[derive(Clone)]
pub(crate) struct TraceService {
    ingest: Arc<Ingest>,
}

struct Ingest {
    control: Arc<Control>,
    places: Semaphore,
}

impl TraceService {
    pub(crate) fn new(control: Arc<Control>) -> Self {
        Self { ingest: Arc::new(Ingest { control, places: Semaphore::new(AT_ONCE) }) }
    }
}

impl NamedService for TraceService {
    const NAME: &'static str = TRACE_SERVICE;
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl tower::Service<http::Request<tonic::body::Body>> for TraceService {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let ingest = Arc::clone(&self.ingest);
        Box::pin(async move {
            if request.uri().path() != picket_api::otlp::EXPORT_PATH {
                return Ok(Status::unimplemented("the only method is Export").into_http());
            }
            // Before the body is read: what waits here costs no memory.
            let Ok(_place) = ingest.places.acquire().await else {
                return Ok(Status::unavailable("the control plane is going away").into_http());
            };
            let mut grpc = Grpc::new(RawCodec)
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(MAX_MESSAGE);
            Ok(grpc.unary(Export(Arc::clone(&ingest)), request).await)
        })
    }
}

struct Export(Arc<Ingest>);

impl UnaryService<Bytes> for Export {
    type Response = Bytes;
    type Future = Answer<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let ingest = Arc::clone(&self.0);
        Box::pin(async move {
            let revoked = ingest.control.revocations.list();
            let workload = Peer::of(request.extensions()).workload(&revoked, SystemTime::now())?;
            let heads = heads_of(request.metadata());
            let answer = ingest.export(&workload, request.into_inner()).await;
            // Afterwards: a record that came with its head is not missing for a moment.
            if let (Ok(_), Some(heads)) = (&answer, heads) {
                ingest.heads(&workload, heads).await?;
            }
            answer.map(Response::new)
        })
    }
}

impl Ingest {
    async fn heads(&self, workload: &Workload, heads: SignedHeads) -> Result<(), Status> {
        let kept = self.control.ledger.heads(workload, heads, SystemTime::now()).await;
        kept.map_err(|error| {
            tracing::error!(error = %crate::chain(&error), "heads of lanes could not be stored");
            Status::unavailable("the records cannot be stored now: send them again")
        })
    }

    async fn export(&self, workload: &Workload, message: Bytes) -> Result<Bytes, Status> {
        let groups =
            wire::split(&message).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut rejected = Rejected::default();
        let mut batches = Vec::new();
        for group in groups {
            if let Some(batch) = self.batch(workload, group, &mut rejected).await? {
                batches.push(batch);
            }
        }
        let stored = self.store(workload, batches, &mut rejected).await?;
        self.control.metrics.ingested(stored.new, stored.duplicates, rejected.count);
        Ok(rejected.into_response().encode_to_vec().into())
    }

    /// Reads one resource's spans. A foreign emitter refuses the whole message.
    async fn batch(
        &self,
        workload: &Workload,
        group: wire::Group,
        rejected: &mut Rejected,
    ) -> Result<Option<Batch>, Status> {
        let resource = Resource::decode(group.resource.clone())
            .map_err(|_| Status::invalid_argument("a resource is not protobuf"))?;
        let emitter = resource_text(&resource, names::EMITTER).unwrap_or_default();
        if emitter != workload.id.as_str() {
            let claimed: String = emitter.chars().take(300).collect();
            self.foreign(workload, "foreign_emitter", &claimed).await;
            return Err(Status::permission_denied(format!(
                "the records' {} is {claimed:?}, but the certificate is that of {}",
                names::EMITTER,
                workload.id
            )));
        }
        let boot = resource_text(&resource, names::SERVICE_INSTANCE_ID).unwrap_or_default();
        if !is_boot(boot, MAX_BOOT) {
            let what = format!("the resource has no {} of ours", names::SERVICE_INSTANCE_ID);
            rejected.add(group.spans.len(), &what);
            return Ok(None);
        }
        let mut records = Vec::with_capacity(group.spans.len());
        for bytes in group.spans {
            match Facts::of_proxy(&bytes) {
                Ok(facts) if !facts.is_of(workload.id.as_str()) => {
                    rejected.add(1, "a record of another service's side of a call");
                    self.foreign(workload, "foreign_emitter", "source or destination").await;
                }
                Ok(facts) => records.push(NewRecord { facts, bytes }),
                Err(malformed) => rejected.add(1, &malformed.to_string()),
            }
        }
        let (spiffe_id, boot) = (workload.id.as_str().to_owned(), boot.to_owned());
        let sampling = self.control.config.export.as_ref().and_then(|export| export.sampling);
        let slow_us =
            sampling.map(|sampling| i64::try_from(sampling.slow.as_micros()).unwrap_or(i64::MAX));
        Ok(Some(Batch { spiffe_id, boot, resource: group.resource, records, slow_us }))
    }

    async fn store(
        &self,
        workload: &Workload,
        batches: Vec<Batch>,
        rejected: &mut Rejected,
    ) -> Result<Stored, Status> {
        if batches.iter().all(|batch| batch.records.is_empty()) {
            return Ok(Stored::default());
        }
        let sizes: Vec<usize> = batches.iter().map(|batch| batch.records.len()).collect();
        let now = clock::milliseconds(SystemTime::now());
        let results = self.control.store.write(move |writing| {
            batches.iter().map(|batch| records::insert(writing, batch, now)).collect()
        });
        let results: Vec<Result<Stored, ForeignBoot>> = results.await.map_err(|error| {
            tracing::error!(error = %crate::chain(&error), "audit records could not be stored");
            Status::unavailable("the records cannot be stored now: send them again")
        })?;
        let mut total = Stored::default();
        for (result, size) in results.into_iter().zip(sizes) {
            match result {
                Ok(stored) => {
                    total.new += stored.new;
                    total.duplicates += stored.duplicates;
                    total.conflicts += stored.conflicts;
                    total.broken.extend(stored.broken);
                }
                Err(ForeignBoot) => {
                    rejected.add(size, "the boot belongs to another emitter");
                    self.foreign(workload, "foreign_boot", "").await;
                }
            }
        }
        let broken = std::mem::take(&mut total.broken);
        self.control.ledger.broken(workload.id.as_str(), broken, SystemTime::now()).await;
        if total.conflicts > 0 {
            let conflicts = usize::try_from(total.conflicts).unwrap_or(usize::MAX);
            rejected.add(conflicts, "the sequence number belongs to another record");
            self.foreign(workload, "sequence_conflict", "").await;
        }
        Ok(total)
    }

    /// Somebody sent what they may not: that is on the record.
    async fn foreign(&self, workload: &Workload, code: &'static str, detail: &str) {
        tracing::warn!(workload = %workload.id, code, "audit records were refused");
        let act = Act::refused(Event::Ingest, SystemTime::now(), code)
            .actor(workload.id.as_str())
            .from(workload.address);
        let act = if detail.is_empty() { act } else { act.with(names::DETAIL, detail) };
        self.control.journal.note(act).await;
    }
}

/// Whether a text can name a boot.
pub(crate) fn is_boot(text: &str, longest: usize) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= longest && text.bytes().all(allowed)
}

/// Heads of lanes that came with the records.
fn heads_of(metadata: &MetadataMap) -> Option<SignedHeads> {
    let value = metadata.get_bin(HEADS)?.to_bytes().ok()?;
    SignedHeads::decode(value).ok()
}

/// What is not accepted, and why; OTLP has one text for all of it.
#[derive(Default)]
struct Rejected {
    count: u64,
    reasons: BTreeMap<String, u64>,
}

impl Rejected {
    fn add(&mut self, count: usize, reason: &str) {
        self.count += count as u64;
        *self.reasons.entry(reason.to_owned()).or_default() += count as u64;
    }

    fn into_response(self) -> ExportTraceServiceResponse {
        if self.count == 0 {
            return ExportTraceServiceResponse::default();
        }
        let reasons = self.reasons.iter().map(|(reason, count)| format!("{count}: {reason}"));
        ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess {
                rejected_spans: i64::try_from(self.count).unwrap_or(i64::MAX),
                error_message: reasons.collect::<Vec<_>>().join("; "),
            }),
        }
    }
}
