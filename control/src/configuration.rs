//! The stream on which a proxy reports and is told what to do.
//!
//! The first update holds every section, each later one only what has changed. A proxy that is slow to
//! read gets the newest state when it reads, not every state in between. The stream ends with the
//! certificate that it was opened with: a proxy opens a new one once it has renewed.
//!
//! Messages: `picket.v1.Configuration` in `api/proto`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use picket_api::attributes as names;
use picket_api::v1::configuration_server::Configuration;
use picket_api::v1::proxy_report::Report;
use picket_api::v1::{self, ConfigUpdate, ProxyReport};
use picket_policy::DefaultAction;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::clock;
use crate::control::Control;
use crate::enrollment::bundle_message;
use crate::journal::{Act, Event};
use crate::ledger::Sitting;
use crate::peer::{Peer, REVOKED, Workload};
use crate::policies::InForce;
use crate::registry::{self, Announcement, Session};
use crate::revocations::List;
use crate::store::StoreError;

/// How long a proxy may take to say who it is.
const HELLO: Duration = Duration::from_secs(10);

/// The least time between two updates of the peers: when a whole mesh starts, it does so one by one.
const PEERS_PAUSE: Duration = Duration::from_millis(50);

type Update = Result<ConfigUpdate, Status>;

/// The gRPC service `picket.v1.Configuration`.
pub(crate) struct ConfigurationService {
    control: Arc<Control>,
}

impl ConfigurationService {
    pub(crate) fn new(control: Arc<Control>) -> Self {
        Self { control }
    }
}

#[tonic::async_trait]
impl Configuration for ConfigurationService {
    type StreamStream = Pin<Box<dyn Stream<Item = Update> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<ProxyReport>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let revoked = self.control.revocations.list();
        let workload = Peer::of(request.extensions()).workload(&revoked, SystemTime::now())?;
        let (updates, stream) = mpsc::channel(1);
        let control = Arc::clone(&self.control);
        self.control.tasks.spawn(async move {
            let reports = request.into_inner();
            if let Err(status) = run(&control, workload, reports, &updates).await {
                // A proxy that no longer reads will notice the end of the stream.
                let _told = timeout(Duration::from_secs(1), updates.send(Err(status))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

async fn run(
    control: &Control,
    workload: Workload,
    mut reports: Streaming<ProxyReport>,
    updates: &mpsc::Sender<Update>,
) -> Result<(), Status> {
    let first = timeout(HELLO, reports.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
    let Some(ProxyReport { report: Some(Report::Hello(hello)) }) = first else {
        return Err(Status::failed_precondition("the first report has to be a hello"));
    };
    let mut policies = control.policies.subscribe();
    let mut peers = control.registry.subscribe();
    let mut revocations = control.revocations.subscribe();
    let mut subjects = control.subjects.subscribe();
    check(&revocations.borrow(), &workload)?;
    let mut hello = hello;
    let witness = hello.witness.take();
    let (session, subject) = announce(control, &workload, hello).await?;
    let mut sitting = sit(control, &workload, witness).await;
    let mut checkpoints = control.ledger.subscribe();
    // Ends the session on every way out, a dropped task included.
    let session = Connected { control, session };
    tracing::info!(workload = %workload.id, "a proxy is connected");
    let life = workload.leaf.not_after.duration_since(SystemTime::now()).unwrap_or_default();
    let end = sleep(life);
    tokio::pin!(end);
    let mut pending = Pending {
        policies: true,
        peers: true,
        bundle: true,
        revocations: true,
        subjects: true,
        checkpoint: false,
    };
    let mut not_before = Instant::now();
    loop {
        let latest = checkpoints.borrow_and_update().clone();
        pending.checkpoint = sitting.as_ref().is_some_and(|s| s.wants(latest.as_deref()));
        let is_due = pending.is_urgent() || Instant::now() >= not_before;
        tokio::select! {
            report = reports.message() => match report? {
                Some(ProxyReport { report: Some(Report::Witnessed(answer)) }) => {
                    if let Some(sitting) = &mut sitting {
                        let taken = control.ledger.witnessed(sitting, answer, SystemTime::now());
                        log_failure(taken.await);
                    }
                }
                Some(report) => take(control, &session.session, &workload, report).await?,
                None => {
                    control.registry.leave(&session.session);
                    return Ok(());
                }
            },
            changed = policies.changed() => {
                changed.map_err(|_| going_away())?;
                pending.policies = true;
            }
            changed = peers.changed() => {
                changed.map_err(|_| going_away())?;
                pending.peers = true;
            }
            changed = revocations.changed() => {
                changed.map_err(|_| going_away())?;
                check(&revocations.borrow(), &workload)?;
                pending.revocations = true;
            }
            changed = subjects.changed() => {
                changed.map_err(|_| going_away())?;
                pending.subjects = true;
            }
            changed = checkpoints.changed() => changed.map_err(|_| going_away())?,
            () = sleep_until(not_before), if pending.peers && !is_due => {}
            place = updates.reserve(), if pending.any() && is_due => {
                let place = place.map_err(|_| Status::cancelled("the proxy has gone"))?;
                if pending.peers {
                    not_before = Instant::now() + PEERS_PAUSE;
                }
                let mut update = update(control, &mut pending, &subject, &mut policies, &mut peers);
                if std::mem::take(&mut pending.revocations) {
                    update.revocations = Some(revocations.borrow_and_update().message());
                }
                if std::mem::take(&mut pending.subjects) {
                    update.subjects = Some(v1::Subjects::clone(&subjects.borrow_and_update()));
                }
                if let Some(witness) = sitting.as_mut().filter(|_| pending.checkpoint) {
                    match control.ledger.offer(witness).await {
                        Ok(offered) => update.checkpoint = offered,
                        Err(error) => {
                            log_failure(Err(error));
                            sitting = None;
                        }
                    }
                }
                place.send(Ok(update));
            }
            () = end.as_mut() => {
                return Err(Status::unauthenticated(
                    "the certificate has expired: open a new stream with the renewed one",
                ));
            }
            () = control.stop.cancelled() => return Err(going_away()),
        }
    }
}

/// Nobody whose certificate is revoked is told anything more.
fn check(revoked: &List, workload: &Workload) -> Result<(), Status> {
    match revoked.refuses(&workload.leaf, SystemTime::now()) {
        true => Err(Status::unauthenticated(REVOKED)),
        false => Ok(()),
    }
}

/// What the proxy has yet to be told.
struct Pending {
    policies: bool,
    peers: bool,
    bundle: bool,
    revocations: bool,
    subjects: bool,
    checkpoint: bool,
}

impl Pending {
    fn any(&self) -> bool {
        self.is_urgent() || self.peers
    }

    /// Peers may come a moment later.
    fn is_urgent(&self) -> bool {
        self.policies || self.bundle || self.revocations || self.subjects || self.checkpoint
    }
}

fn update(
    control: &Control,
    pending: &mut Pending,
    subject: &picket_policy::Workload,
    policies: &mut watch::Receiver<Option<Arc<InForce>>>,
    peers: &mut watch::Receiver<Arc<v1::PeerSet>>,
) -> ConfigUpdate {
    let mut update = ConfigUpdate {
        server_time_ms: clock::milliseconds(SystemTime::now()),
        ..Default::default()
    };
    if std::mem::take(&mut pending.policies) {
        let in_force = policies.borrow_and_update().clone();
        update.policies = in_force.map(|in_force| policy_message(&in_force, subject));
    }
    if std::mem::take(&mut pending.peers) {
        update.peers = Some(v1::PeerSet::clone(&peers.borrow_and_update()));
    }
    if std::mem::take(&mut pending.bundle) {
        update.bundle = Some(bundle_message(control.authority.bundle()));
    }
    update
}

fn policy_message(in_force: &InForce, subject: &picket_policy::Workload) -> v1::PolicySet {
    let settings = in_force.set.settings();
    let documents = in_force.set.documents_for(subject).into_iter().map(|d| v1::PolicyDocument {
        file: d.file.to_string(),
        first_line: d.first_line,
        text: d.text.to_string(),
    });
    v1::PolicySet {
        generation: in_force.generation.clone(),
        documents: documents.collect(),
        default_action: match settings.default_action {
            DefaultAction::Allow => "allow".to_owned(),
            DefaultAction::Deny => "deny".to_owned(),
        },
        default_mtls: settings.default_mtls.as_str().to_owned(),
        root_namespace: settings.root_namespace.clone(),
        trust_domain_aliases: settings.trust_domain_aliases.clone(),
    }
}

async fn announce(
    control: &Control,
    workload: &Workload,
    hello: v1::Hello,
) -> Result<(Session, picket_policy::Workload), Status> {
    let now = SystemTime::now();
    let refuse = |code: &'static str, error: String| {
        let act = Act::refused(Event::Announce, now, code).actor(workload.id.as_str());
        act.from(workload.address).with(names::DETAIL, error)
    };
    let announcement = match Announcement::check(hello) {
        Ok(announcement) => announcement,
        Err(error) => {
            control.journal.note(refuse("announcement", error.to_string())).await;
            return Err(Status::invalid_argument(error.to_string()));
        }
    };
    let subject = picket_policy::Workload {
        namespace: workload.id.namespace().to_owned(),
        name: workload.id.service_account().to_owned(),
        labels: announcement.labels.clone(),
    };
    match control.registry.announce(&workload.id, &workload.leaf, announcement, now) {
        Ok(session) => {
            // Kept at once: a control plane that dies now must not forget a peer.
            if let Err(error) = control.registry.keep().await {
                tracing::error!(error = %crate::chain(&error), "the registry could not be kept");
            }
            Ok((session, subject))
        }
        Err(refused) => {
            tracing::warn!(workload = %workload.id, %refused, "an announcement was refused");
            control.journal.note(refuse(refused.code(), refused.to_string())).await;
            Err(Status::already_exists(refused.to_string()))
        }
    }
}

/// Begins to have the log witnessed, if the proxy is a witness.
async fn sit(
    control: &Control,
    workload: &Workload,
    witness: Option<v1::Witness>,
) -> Option<Sitting> {
    let sitting = control.ledger.sit(&workload.id, witness?, SystemTime::now()).await;
    sitting.unwrap_or_else(|error| {
        log_failure(Err(error));
        None
    })
}

fn log_failure(done: Result<(), StoreError>) {
    if let Err(error) = done {
        tracing::error!(error = %crate::chain(&error), "what a proxy says of the log is not kept");
    }
}

async fn take(
    control: &Control,
    session: &Session,
    workload: &Workload,
    report: ProxyReport,
) -> Result<(), Status> {
    let now = SystemTime::now();
    match report.report {
        Some(Report::Heartbeat(heartbeat)) => {
            if let Some(offset) = control.registry.heartbeat(session, heartbeat, now) {
                note_clock(control, workload, offset, now).await;
            }
        }
        Some(Report::Acknowledgement(answer)) => {
            let is_news = control.registry.acknowledge(session, &answer, now);
            if is_news && answer.error.is_empty() {
                let act = Act::granted(Event::AcceptPolicies, now)
                    .actor(workload.id.as_str())
                    .with(names::GENERATION, answer.generation)
                    .with(names::DETAIL, format!("in force after {} us", answer.applied_in_us));
                control.journal.note(act).await;
            } else if is_news {
                tracing::error!(
                    workload = %workload.id, generation = answer.generation, error = answer.error,
                    "a proxy refused the policies"
                );
                let act = Act::refused(Event::RefusePolicies, now, "policies_refused_by_proxy")
                    .actor(workload.id.as_str())
                    .with(names::GENERATION, answer.generation)
                    .with(names::DETAIL, answer.error.chars().take(1_000).collect::<String>());
                control.journal.note(act).await;
            }
        }
        Some(Report::Heads(heads)) => {
            log_failure(control.ledger.heads(workload, heads, now).await);
        }
        Some(Report::Witnessed(_)) => {}
        Some(Report::Hello(_)) => {
            return Err(Status::failed_precondition("a stream has one hello: open another"));
        }
        None => {
            return Err(Status::invalid_argument("the report is not known; is the proxy newer?"));
        }
    }
    Ok(())
}

/// Puts on record that a proxy's clock is off, or no longer.
async fn note_clock(control: &Control, workload: &Workload, offset: i64, now: SystemTime) {
    let act = match registry::is_off(offset) {
        true => Act::refused(Event::ClockOffset, now, "clock_offset"),
        false => Act::granted(Event::ClockOffset, now),
    };
    tracing::warn!(workload = %workload.id, offset, "a proxy's clock, in milliseconds off ours");
    let act = act.subject(workload.id.as_str()).from(workload.address);
    control.journal.note(act.with_number(names::CLOCK_OFFSET, offset)).await;
}

fn going_away() -> Status {
    Status::unavailable("the control plane is going away: connect again")
}

/// A session that ends with its scope.
struct Connected<'a> {
    control: &'a Control,
    session: Session,
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.control.registry.disconnect(&self.session);
    }
}
