//! The mTLS connection to the control plane, as gRPC wants it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hyper_util::rt::TokioIo;
use picket_certs::tls::{self, TlsConfigError};
use picket_certs::{Expect, PeerVerifier, SpiffeId, Svid, TrustBundle, TrustDomain};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::ControlError;
use crate::identity::Identity;

/// Time for one connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a control plane that vanished without a word is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The way to the control plane under the identity in force.
pub(crate) struct ControlChannel {
    address: String,
    /// Who the control plane must prove to be.
    control: Result<SpiffeId, picket_certs::spiffe::SpiffeIdError>,
    current: ArcSwapOption<Channel>,
}

impl ControlChannel {
    pub(crate) fn new(address: &str, trust_domain: &TrustDomain) -> Self {
        let control = SpiffeId::control_plane(trust_domain);
        Self { address: address.to_owned(), control, current: ArcSwapOption::empty() }
    }

    /// The channel under the identity in force; none before there is one.
    pub(crate) fn load(&self) -> Option<Channel> {
        self.current.load().as_deref().cloned()
    }

    /// Connections from now on are made under this identity.
    pub(super) fn identity(&self, identity: &Identity) -> Result<(), ControlError> {
        let channel = self.connect(Some(&identity.svid), &identity.bundle)?;
        self.current.store(Some(Arc::new(channel)));
        Ok(())
    }

    /// A channel that connects when it is first used.
    pub(super) fn connect(
        &self,
        svid: Option<&Svid>,
        bundle: &TrustBundle,
    ) -> Result<Channel, ControlError> {
        let control =
            self.control.clone().map_err(|error| ControlError::Identity(error.to_string()))?;
        let verifier = PeerVerifier::new(bundle.clone(), Expect::Workload(control));
        let config: Result<_, TlsConfigError> = tls::client_config(svid, verifier, &[b"h2"]);
        let connector = TlsConnector::from(Arc::new(config?));
        let address = self.address.clone();
        let connect = tower::service_fn(move |_: http::Uri| {
            let (connector, address) = (connector.clone(), address.clone());
            async move {
                let stream = TcpStream::connect(&address).await?;
                stream.set_nodelay(true)?;
                // The name plays no part in the verification; it must only be one.
                let name = ServerName::try_from("control.picket-system")
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                connector.connect(name, stream).await.map(TokioIo::new)
            }
        });
        // The scheme is http because TLS is done here and not by tonic.
        Ok(Endpoint::from_static("http://control.picket-system")
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connect))
    }
}
