//! Looks whether a new certificate is really used, not only stored: a handshake with the proxy's own
//! listener, as a peer would make it.
//!
//! Certificates that were renewed and never loaded are noticed at their end otherwise, by everybody at
//! once. Nothing is asked of the service: the connection ends after the handshake.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use picket_certs::Leaf;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::identity::{Alpn, Identity};

/// Time for the handshake.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why the certificate in force does not seem to be the one that is served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error(
        "the proxy's own listener {0} does not accept a handshake with the new certificate: {1}"
    )]
    Handshake(SocketAddr, String),
    #[error("the proxy's own listener {0} still serves the certificate {1}")]
    Other(SocketAddr, String),
}

/// Checks one listener.
pub(crate) async fn probe(listener: SocketAddr, identity: &Identity) -> Result<(), ProbeError> {
    let address = reachable(listener);
    let served = tokio::time::timeout(TIMEOUT, served(address, identity)).await;
    let served = served.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")));
    match served {
        Ok(serial) if serial == identity.svid.leaf().serial => Ok(()),
        Ok(serial) => Err(ProbeError::Other(address, serial)),
        Err(cause) => Err(ProbeError::Handshake(address, cause)),
    }
}

/// The serial number of the certificate that a listener serves.
async fn served(address: SocketAddr, identity: &Identity) -> Result<String, String> {
    let failed = |error: &(dyn std::error::Error + 'static)| crate::words(error);
    let config = identity.client(&identity.id, Alpn::Http1).map_err(|error| failed(&error))?;
    let name = ServerName::IpAddress(address.ip().into());
    let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
    let connector = TlsConnector::from(Arc::clone(&config));
    let stream = connector.connect(name, stream).await.map_err(|error| failed(&error))?;
    let (_, tls) = stream.get_ref();
    let leaf = tls.peer_certificates().and_then(|chain| chain.first());
    let leaf = leaf.ok_or_else(|| "no certificate was served".to_owned())?;
    Leaf::from_der(leaf).map(|leaf| leaf.serial).map_err(|error| failed(&error))
}

/// The listener's address as this machine reaches it.
fn reachable(mut listener: SocketAddr) -> SocketAddr {
    if listener.ip().is_unspecified() {
        listener.set_ip(match listener {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    listener
}

#[cfg(test)]
mod tests {
    use picket_testkit::Mesh;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn identity(mesh: &Mesh) -> Identity {
        let id = mesh.id("shop", "orders");
        Identity::new(&id, mesh.svid("shop", "orders"), mesh.bundle()).unwrap()
    }

    #[tokio::test]
    async fn a_listener_that_serves_an_older_certificate_is_found_out() {
        let mesh = Mesh::new("example.org");
        let (stored, loaded) = (identity(&mesh), identity(&mesh));
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::clone(&loaded.http));
        tokio::spawn(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                let _handshake = acceptor.accept(stream).await;
            }
        });
        probe(address, &loaded).await.unwrap();
        let error = probe(address, &stored).await.unwrap_err();
        assert!(matches!(error, ProbeError::Other(_, serial)
            if serial == loaded.svid.leaf().serial));
        let nobody = "127.0.0.1:1".parse().unwrap();
        assert!(matches!(probe(nobody, &stored).await, Err(ProbeError::Handshake(..))));
    }
}
