//! The proxy's side of the control plane: certificates, configuration, and the state in which the
//! proxy goes on when it is away.
//!
//! One task does it all, in order: have a certificate (from the state directory, else with the join
//! token), keep a configuration stream open, renew at half of the certificate's life. Whatever fails
//! is tried again; what was in force stays in force.

mod channel;
mod configuration;
mod enroll;
mod session;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use picket_certs::csr::CsrError;
use picket_certs::files::FileError;
use picket_certs::svid::SvidError;
use picket_certs::tls::TlsConfigError;
use picket_certs::{NewKey, Svid, TrustBundle};
use tonic::Code;

use crate::audit::bulletin::Bulletin;
use crate::audit::heads::Heads;
use crate::audit::notice::RenewalFailure;
use crate::config::ControlSource;
use crate::identity::{Identity, IdentityError};
use crate::probe::{ProbeError, probe};
use crate::state::{StateDir, StateError};
use crate::witness::Witness;
use crate::worker::Shared;

pub(crate) use channel::ControlChannel;
pub(crate) use configuration::{Configuration, workload};

/// First and longest pause before something is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// How long until it is on record once more that renewing fails for the same reason.
const TOLD_AGAIN: Duration = Duration::from_secs(600);
/// Longest text of why, in characters.
const MAX_DETAIL: usize = 500;

/// Why there is no certificate, or no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The trust bundle cannot be read.
    #[error("the trust bundle cannot be read")]
    BundleFile(#[source] FileError),
    /// The trust bundle is not one.
    #[error("the trust bundle cannot be used")]
    Bundle(#[from] picket_certs::bundle::BundleError),
    /// There is no certificate yet and no token to get one.
    #[error(
        "there is no certificate in the state directory and no join token; make one with \
         `picket join-token create` and pass it as PICKET_JOIN_TOKEN or control.joinTokenFile"
    )]
    NoToken,
    /// The file with the token cannot be read.
    #[error("the join token cannot be read")]
    TokenFile(#[source] FileError),
    /// The control plane refused.
    #[error("the control plane refused: {}", .0.message())]
    Refused(Box<tonic::Status>),
    /// The control plane cannot be reached, or broke off.
    #[error("the control plane cannot be reached: {}", .0.message())]
    Unreachable(Box<tonic::Status>),
    /// The key or the signing request cannot be made.
    #[error("no key can be made")]
    Key(#[from] CsrError),
    /// What was issued does not fit.
    #[error("the issued certificate cannot be used")]
    Issued(#[from] SvidError),
    /// What was issued is for somebody else.
    #[error("what the control plane issued cannot be used: {0}")]
    Identity(String),
    /// The answer lacks a part.
    #[error("the control plane's answer lacks its {0}")]
    Incomplete(&'static str),
    /// TLS cannot be set up.
    #[error("TLS cannot be configured")]
    Tls(#[from] TlsConfigError),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
}

impl ControlError {
    /// Why a renewal failed, as a code.
    fn reason(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Unreachable(_) => "unreachable",
            _ => "invalid",
        }
    }
}

impl From<IdentityError> for ControlError {
    fn from(error: IdentityError) -> Self {
        Self::Identity(crate::words(&error))
    }
}

impl From<tonic::Status> for ControlError {
    fn from(status: tonic::Status) -> Self {
        match status.code() {
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::AlreadyExists
            | Code::Unimplemented => Self::Refused(Box::new(status)),
            _ => Self::Unreachable(Box::new(status)),
        }
    }
}

/// The proxy's membership in the mesh.
pub(crate) struct Control {
    source: ControlSource,
    shared: Arc<Shared>,
    state: Arc<StateDir>,
    channel: Arc<ControlChannel>,
    configuration: Configuration,
    heads: Arc<Heads>,
    witness: Witness,
    bundle: TrustBundle,
    identity: Option<Arc<Identity>>,
    renew_at: SystemTime,
    renewal_error: String,
    bulletin: Arc<Bulletin>,
    /// What was put on record last about a renewal that failed, and when.
    renewal_told: Option<(&'static str, SystemTime)>,
}

impl Control {
    /// Takes up what an earlier start left.
    pub(crate) fn open(
        source: &ControlSource,
        shared: Arc<Shared>,
        state: Arc<StateDir>,
        mut configuration: Configuration,
        (heads, bulletin): (Arc<Heads>, Arc<Bulletin>),
    ) -> Result<Self, ControlError> {
        let trust_domain = &shared.config.trust_domain;
        // The bundle that was received last is newer than the one that was installed.
        let bundle = match state.bundle(trust_domain)? {
            Some(bundle) => bundle,
            None => {
                let pem = picket_certs::files::read_public(&source.trust_bundle);
                TrustBundle::from_pem(
                    trust_domain.clone(),
                    &pem.map_err(ControlError::BundleFile)?,
                )?
            }
        };
        let witness = Witness::open(Arc::clone(&state), &shared.config.workload.id)?;
        let channel = Arc::new(ControlChannel::new(&source.address, trust_domain));
        if let Some(kept) = state.last_good() {
            configuration.restore(kept);
        }
        let mut control = Self {
            source: source.clone(),
            state: Arc::clone(&state),
            channel,
            bundle,
            identity: None,
            renew_at: SystemTime::now(),
            renewal_error: String::new(),
            bulletin,
            renewal_told: None,
            shared,
            configuration,
            heads,
            witness,
        };
        if let Some(svid) = state.svid()? {
            let left = svid.leaf().not_after.duration_since(SystemTime::now());
            control.renew_at = SystemTime::now() + left.unwrap_or_default() / 2;
            control.adopt(svid)?;
        }
        Ok(control)
    }

    /// The way to the control plane, for the exporter.
    pub(crate) fn channel(&self) -> Arc<ControlChannel> {
        Arc::clone(&self.channel)
    }

    /// Runs until the proxy ends. Returns only when there is no way to a first certificate.
    pub(crate) async fn run(mut self) -> ControlError {
        let mut pause = PAUSES.0;
        loop {
            let before = SystemTime::now();
            let error = match self.step().await {
                Ok(()) => {
                    pause = PAUSES.0;
                    continue;
                }
                Err(error) => error,
            };
            if self.identity.is_none() && !matches!(error, ControlError::Unreachable(_)) {
                return error;
            }
            if before.elapsed().is_ok_and(|lasted| lasted > PAUSES.1) {
                // It worked for a while: this is a new trouble.
                pause = PAUSES.0;
            }
            tracing::warn!(cause = crate::words(&error), "trying the control plane again");
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn step(&mut self) -> Result<(), ControlError> {
        let Some(identity) = self.identity.clone() else { return self.join().await };
        if SystemTime::now() >= self.renew_at {
            let renewed = self.renew(&identity).await;
            if let Err(error) = &renewed {
                self.shared.metrics.renewals_failed.inc();
                self.renewal_error = crate::words(error);
                self.tell_renewal(&identity, error.reason());
                if !identity.is_valid(SystemTime::now()) {
                    return renewed;
                }
                // The certificate is still good: go on with it and try again before it ends.
                let left = identity.svid.leaf().not_after.duration_since(SystemTime::now());
                let pause = (left.unwrap_or_default() / 8).min(Duration::from_secs(60));
                self.renew_at = SystemTime::now() + pause.max(PAUSES.0);
                tracing::warn!(cause = self.renewal_error, "the certificate was not renewed");
            }
        }
        self.session().await
    }

    async fn join(&mut self) -> Result<(), ControlError> {
        let token = self.source.token.as_ref().ok_or(ControlError::NoToken)?;
        let key = NewKey::generate()?;
        let config = &self.shared.config;
        let issued = enroll::join(&self.channel, &self.bundle, token, &key, &config.workload.id);
        let issued = issued.await?;
        self.take(&key, issued)?;
        tracing::info!(identity = %self.shared.config.workload.id, "joined the mesh");
        Ok(())
    }

    async fn renew(&mut self, identity: &Identity) -> Result<(), ControlError> {
        let key = NewKey::generate()?;
        let issued = enroll::renew(&self.channel, identity, &key).await?;
        self.take(&key, issued)?;
        tracing::info!("the certificate was renewed");
        self.renewal_error = self.probe().await.map_or_else(
            |error| {
                tracing::error!(cause = crate::words(&error), "the new certificate is not in use");
                self.shared.metrics.renewals_failed.inc();
                crate::words(&error)
            },
            |()| String::new(),
        );
        match self.renewal_error.is_empty() {
            true => self.renewal_told = None,
            false => self.tell_renewal(identity, "not_in_use"),
        }
        Ok(())
    }

    /// Puts on record that the certificate in use was not renewed: not with each attempt.
    fn tell_renewal(&mut self, identity: &Identity, reason: &'static str) {
        let now = SystemTime::now();
        let is_known = self.renewal_told.is_some_and(|(told, at)| {
            told == reason && now.duration_since(at).unwrap_or_default() < TOLD_AGAIN
        });
        if is_known {
            return;
        }
        self.renewal_told = Some((reason, now));
        let detail = self.renewal_error.chars().take(MAX_DETAIL).collect();
        let serial = identity.svid.leaf().serial.clone();
        self.bulletin.renewal(RenewalFailure { reason, detail, serial }, now);
    }

    /// Whether what was renewed is also used.
    async fn probe(&self) -> Result<(), ProbeError> {
        match (&self.identity, self.configuration.http_listener()) {
            (Some(identity), Some(listener)) => probe(listener, identity).await,
            _ => Ok(()),
        }
    }

    fn take(&mut self, key: &NewKey, issued: enroll::Issued) -> Result<(), ControlError> {
        let svid = Svid::new(issued.chain, key.to_der())?;
        // Checked before it is kept: a certificate for somebody else must not replace ours.
        Identity::new(&self.shared.config.workload.id, svid.clone(), issued.bundle.clone())?;
        self.state.save_svid(key, &svid)?;
        self.take_bundle(issued.bundle)?;
        let left = svid.leaf().not_after.duration_since(SystemTime::now()).unwrap_or_default();
        // Half of its life, give or take a tenth, so that a mesh does not renew all at once.
        self.renew_at = SystemTime::now() + left.mul_f64(0.45 + 0.1 * fastrand::f64());
        self.adopt(svid)
    }

    fn take_bundle(&mut self, bundle: TrustBundle) -> Result<(), ControlError> {
        if bundle != self.bundle {
            self.state.save_bundle(&bundle)?;
            self.bundle = bundle;
        }
        Ok(())
    }

    /// Puts a certificate, or the same one under a new bundle, in force.
    fn adopt(&mut self, svid: Svid) -> Result<(), ControlError> {
        let identity = Identity::new(&self.shared.config.workload.id, svid, self.bundle.clone())?;
        let identity = Arc::new(identity);
        self.configuration.identity(Arc::clone(&identity))?;
        self.channel.identity(&identity)?;
        self.identity = Some(identity);
        Ok(())
    }
}
