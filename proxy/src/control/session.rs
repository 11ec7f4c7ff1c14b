//! The configuration stream: updates come down and take effect, reports go up.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use picket_api::v1;
use picket_api::v1::configuration_client::ConfigurationClient;
use picket_api::v1::proxy_report::Report;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Control, ControlError, enroll};

/// How often the proxy says how it is.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often the heads of the audit's lanes are signed, if they have moved.
const HEADS: Duration = Duration::from_secs(1);
/// Largest update that is read, in bytes: all policies that concern one workload, and all peers.
const MAX_UPDATE: usize = 64 << 20;
/// Reports that may wait to be sent.
const QUEUE: usize = 16;

impl Control {
    /// Keeps a stream until the certificate has to be renewed, or the stream breaks.
    pub(super) async fn session(&mut self) -> Result<(), ControlError> {
        let channel = self.channel.load().ok_or(ControlError::Incomplete("certificate"))?;
        let (reports, queue) = mpsc::channel(QUEUE);
        let mut hello = self.configuration.hello(&self.source.address).await;
        hello.witness = Some(self.witness.hello());
        send(&reports, Report::Hello(hello)).await?;
        let mut client = ConfigurationClient::new(channel).max_decoding_message_size(MAX_UPDATE);
        let mut updates = client.stream(ReceiverStream::new(queue)).await?.into_inner();
        let _connected = Connected::new(self.shared.metrics.control_connected.clone());
        tracing::info!(address = self.source.address, "connected to the control plane");
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut heads = tokio::time::interval(HEADS);
        let mut sent = 0;
        loop {
            let renewal = self.renew_at.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                update = updates.message() => match update? {
                    Some(update) => self.update(update, &reports).await?,
                    None => return Err(Status::unavailable("it closed the stream").into()),
                },
                _ = heartbeat.tick() => {
                    let report = self.heartbeat();
                    send(&reports, Report::Heartbeat(report)).await?;
                }
                _ = heads.tick() => {
                    if let Some((signed, revision)) = self.heads.newer_than(sent, SystemTime::now()) {
                        send(&reports, Report::Heads(signed)).await?;
                        sent = revision;
                    }
                }
                () = tokio::time::sleep(renewal) => return Ok(()),
            }
        }
    }

    async fn update(
        &mut self,
        mut update: v1::ConfigUpdate,
        reports: &mpsc::Sender<v1::ProxyReport>,
    ) -> Result<(), ControlError> {
        let received = Instant::now();
        enroll::check_clock(update.server_time_ms);
        if let Some(bundle) = update.bundle.clone() {
            let bundle = enroll::trust_bundle(bundle, &self.bundle)?;
            if bundle != self.bundle {
                self.take_bundle(bundle)?;
                if let Some(identity) = self.identity.clone() {
                    self.adopt(identity.svid.clone())?;
                }
            }
        }
        if let Some(checkpoint) = update.checkpoint.take() {
            let answer = self.witness.look_at(&checkpoint, SystemTime::now());
            self.shared.metrics.log_witnessed(self.witness.seen());
            self.shared.witnessed.store(Some(Arc::new(self.witness.seen().clone())));
            send(reports, Report::Witnessed(answer)).await?;
            // It comes each second, mostly alone: then there is nothing to keep or to acknowledge.
            if update
                == (v1::ConfigUpdate {
                    server_time_ms: update.server_time_ms,
                    ..Default::default()
                })
            {
                return Ok(());
            }
        }
        let offered = update.policies.as_ref().map(|policies| policies.generation.clone());
        let error = match self.configuration.apply(update) {
            Ok(()) => {
                self.state.save_last_good(self.configuration.in_force())?;
                String::new()
            }
            Err(refusal) => {
                self.shared.metrics.configurations_refused.inc();
                let cause = crate::words(&refusal);
                tracing::error!(cause, "a configuration was refused; the last good one stays");
                cause
            }
        };
        let generation = offered.unwrap_or_else(|| self.configuration.generation().to_owned());
        if generation.is_empty() {
            return Ok(());
        }
        let applied_in_us = u64::try_from(received.elapsed().as_micros()).unwrap_or(u64::MAX);
        let revocations = self.configuration.revocations();
        let acknowledgement = v1::Acknowledgement { generation, error, applied_in_us, revocations };
        send(reports, Report::Acknowledgement(acknowledgement)).await
    }

    fn heartbeat(&self) -> v1::Heartbeat {
        let now = SystemTime::now();
        let leaf = self.identity.as_ref().map(|identity| identity.svid.leaf());
        v1::Heartbeat {
            time_ms: i64::try_from(crate::audit::nanos(now) / 1_000_000).unwrap_or(i64::MAX),
            certificate_serial: leaf.map(|leaf| leaf.serial.clone()).unwrap_or_default(),
            certificate_not_after: leaf.map_or(0, |leaf| crate::unix(leaf.not_after)),
            renewal_error: self.renewal_error.clone(),
            audit: Some(self.configuration.audit_account()),
        }
    }
}

async fn send(reports: &mpsc::Sender<v1::ProxyReport>, report: Report) -> Result<(), ControlError> {
    let sent = reports.send(v1::ProxyReport { report: Some(report) }).await;
    sent.map_err(|_| Status::unavailable("the stream broke").into())
}

/// Shows in the metrics that there is a stream, for as long as it lives.
struct Connected(Gauge);

impl Connected {
    fn new(gauge: Gauge) -> Self {
        gauge.set(1);
        Self(gauge)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.set(0);
    }
}
