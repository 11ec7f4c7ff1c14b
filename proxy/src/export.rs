//! Sends audit spans on, from the spool to the control plane or another OTLP receiver, and lets go of
//! them when they were received for good.
//!
//! A batch is the spans' own bytes with the framing of an export request put round them. It is sent
//! again, after a pause with jitter, until it is acknowledged; only what the receiver says it can
//! never take is set aside in a dead-letter file, so that it blocks nothing and is not lost.
//!
//! Specification: OTLP 1.x, `ExportTraceServiceRequest` and "OTLP/gRPC response".

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use picket_api::attributes;
use picket_api::otlp::{EXPORT_PATH, RawCodec};
use prost::Message;
use tokio::sync::watch;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::audit::bulletin::Bulletin;
use crate::audit::heads::Heads;
use crate::audit::span::{field_size, open_field};
use crate::control::ControlChannel;
use crate::spool::{Account, Completed, Limit, Reader};

/// How long spans are gathered before they are sent.
const GATHER: Duration = Duration::from_millis(100);
/// How long is waited for the disk at the end.
const SOON: Duration = Duration::from_millis(1);
/// One batch.
const BATCH: Limit = Limit { spans: 2048, bytes: 2 << 20 };
/// Time for one batch.
const TIMEOUT: Duration = Duration::from_secs(30);
/// First and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The metadata that the heads of the lanes travel in.
const HEADS: &str = "picket-heads-bin";

/// Where spans go.
pub(crate) enum Destination {
    /// To the control plane, by the identity in force.
    Control(Arc<ControlChannel>),
    /// To any OTLP/gRPC receiver.
    Otlp(Channel),
    /// Nowhere: the spool keeps them, and the oldest make room for new ones.
    Spool { max_size: u64 },
}

/// Empties the spool.
pub(crate) struct Exporter {
    reader: Reader,
    destination: Destination,
    account: Arc<Account>,
    heads: Arc<Heads>,
    bulletin: Arc<Bulletin>,
    dead_letters: PathBuf,
}

impl Exporter {
    /// `dead_letters` is the file that takes what a receiver refuses for good.
    pub(crate) fn new(
        reader: Reader,
        destination: Destination,
        account: Arc<Account>,
        heads: Arc<Heads>,
        bulletin: Arc<Bulletin>,
        dead_letters: PathBuf,
    ) -> Self {
        Self { reader, destination, account, heads, bulletin, dead_letters }
    }

    /// Runs until `ended` says that nothing more is written and everything is sent, or until it is
    /// given up.
    pub(crate) async fn run(mut self, mut ended: watch::Receiver<bool>) {
        let mut pause = PAUSES.0;
        loop {
            // Read before looking into the spool: what was written before the end is then seen.
            let last = *ended.borrow_and_update();
            if !self.is_due() {
                if last {
                    return;
                }
                wait(GATHER, &mut ended).await;
                continue;
            }
            let batch = match self.reader.next(BATCH) {
                Ok(batch) => batch,
                Err(error) => {
                    tracing::error!(%error, "the audit spool cannot be read");
                    wait(PAUSES.1, &mut ended).await;
                    continue;
                }
            };
            for lane in self.reader.ended() {
                self.heads.ended(lane);
            }
            let now = SystemTime::now();
            for missing in self.reader.missing() {
                self.bulletin.missing(missing, now);
            }
            self.bulletin.retry(now);
            if batch.is_empty() {
                if last && !self.reader.is_caught_up() {
                    // What was written last is on its way to the disk.
                    tokio::time::sleep(SOON).await;
                    continue;
                }
                if last {
                    return self.reader.close();
                }
                wait(GATHER, &mut ended).await;
                continue;
            }
            let more = batch.len() >= BATCH.spans / 2;
            while let Err(error) = self.deliver(&batch).await {
                tracing::warn!(cause = error.message(), code = ?error.code(), "audit spans wait");
                tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                pause = (pause * 2).min(PAUSES.1);
            }
            pause = PAUSES.0;
            if !more && !last {
                wait(GATHER, &mut ended).await;
            }
        }
    }

    /// Without a destination spans are let go of only to make room.
    fn is_due(&self) -> bool {
        match self.destination {
            Destination::Spool { max_size } => self.account.size() > max_size / 4 * 3,
            Destination::Control(_) | Destination::Otlp(_) => true,
        }
    }

    async fn deliver(&mut self, batch: &[Completed]) -> Result<(), Status> {
        let channel = match &self.destination {
            Destination::Spool { .. } => {
                self.reader.acknowledge(batch, 0);
                return Ok(());
            }
            Destination::Otlp(channel) => channel.clone(),
            Destination::Control(channel) => {
                channel.load().ok_or_else(|| Status::unavailable("there is no certificate yet"))?
            }
        };
        let message = self.encode(batch);
        let heads = self.heads.signed(SystemTime::now()).map(|heads| heads.encode_to_vec());
        match send(channel, message.clone(), heads).await {
            Ok(None) => self.reader.acknowledge(batch, 0),
            Ok(Some(rejection)) => {
                tracing::error!(
                    rejected = rejection.rejected_spans,
                    cause = rejection.error_message,
                    "the receiver rejected audit spans"
                );
                self.set_aside(&message);
                self.reader.acknowledge(batch, rejection.rejected_spans.unsigned_abs());
            }
            // OTLP: these are not to be sent again.
            Err(status) if status.code() == Code::InvalidArgument => {
                tracing::error!(cause = status.message(), "the receiver refused audit spans");
                self.set_aside(&message);
                self.reader.lose(batch);
            }
            Err(status) => return Err(status),
        }
        Ok(())
    }

    /// Keeps what a receiver refused: length-delimited export requests, one after the other.
    fn set_aside(&self, message: &Bytes) {
        use std::io::Write as _;
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&self.dead_letters);
        let written = file.and_then(|mut file| {
            let mut framed = Vec::with_capacity(message.len() + 8);
            prost::encoding::encode_varint(message.len() as u64, &mut framed);
            framed.extend_from_slice(message);
            file.write_all(&framed)?;
            file.sync_data()
        });
        if let Err(error) = written {
            tracing::error!(%error, "refused audit spans could not be set aside");
        }
    }

    /// `ExportTraceServiceRequest { resource_spans: [{ resource, scope_spans: [{ scope, spans }] }] }`
    fn encode(&self, batch: &[Completed]) -> Bytes {
        let mut scope = Vec::new();
        open_field(&mut scope, 1, attributes::SCOPE.len());
        scope.extend_from_slice(attributes::SCOPE.as_bytes());
        let version = env!("CARGO_PKG_VERSION");
        open_field(&mut scope, 2, version.len());
        scope.extend_from_slice(version.as_bytes());

        let mut out = Vec::new();
        for of_one_boot in batch.chunk_by(|a, b| a.boot() == b.boot()) {
            let Some(boot) = of_one_boot.first().map(Completed::boot) else { continue };
            let resource = self.reader.resource(boot);
            let spans_size: usize = of_one_boot.iter().map(|c| field_size(2, c.span.len())).sum();
            let scope_spans = field_size(1, scope.len()) + spans_size;
            open_field(&mut out, 1, field_size(1, resource.len()) + field_size(2, scope_spans));
            open_field(&mut out, 1, resource.len());
            out.extend_from_slice(resource);
            open_field(&mut out, 2, scope_spans);
            open_field(&mut out, 1, scope.len());
            out.extend_from_slice(&scope);
            for completed in of_one_boot {
                open_field(&mut out, 2, completed.span.len());
                out.extend_from_slice(&completed.span);
            }
        }
        out.into()
    }
}

async fn wait(pause: Duration, ended: &mut watch::Receiver<bool>) {
    let _elapsed = tokio::time::timeout(pause, ended.changed()).await;
}

#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// Sends one batch; tells what was rejected of it.
async fn send(
    channel: Channel,
    message: Bytes,
    heads: Option<Vec<u8>>,
) -> Result<Option<PartialSuccess>, Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    if let Some(heads) = heads {
        request.metadata_mut().insert_bin(HEADS, MetadataValue::from_bytes(&heads));
    }
    let path = http::uri::PathAndQuery::from_static(EXPORT_PATH);
    let response = tokio::time::timeout(TIMEOUT, client.unary(request, path, RawCodec)).await;
    let response = response.map_err(|_| Status::deadline_exceeded("no answer in time"))??;
    let response = ExportResponse::decode(response.into_inner())
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(response.partial_success.filter(|partial| partial.rejected_spans > 0))
}
