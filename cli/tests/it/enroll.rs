//! A workload without a sidecar: it speaks to the control plane's listener for proxies by itself.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use picket_api::v1;
use picket_api::v1::enrollment_client::EnrollmentClient;
use picket_certs::files::{PRIVATE, PUBLIC, write_atomic};
use picket_certs::{Expect, Identity, NewKey, PeerVerifier, SpiffeId, TrustBundle, svid, tls};
use picket_testkit::mesh::Files;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::mesh::{Mesh, TRUST_DOMAIN, id};

/// A connection to the control plane of somebody who has no certificate yet.
async fn channel(bundle: TrustBundle, address: SocketAddr) -> Channel {
    let control = SpiffeId::control_plane(&TRUST_DOMAIN.parse().unwrap()).unwrap();
    let verifier = PeerVerifier::new(bundle, Expect::Workload(control));
    let config = Arc::new(tls::client_config(None, verifier, &[b"h2"]).unwrap());
    let connect = tower::service_fn(move |_: Uri| {
        let connector = TlsConnector::from(Arc::clone(&config));
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = "control.picket-system".try_into().map_err(io::Error::other)?;
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("https://control").connect_with_connector(connect).await.unwrap()
}

/// Asks for a first certificate.
pub(crate) async fn join(
    mesh: &Mesh,
    token: &str,
    signing_request: Vec<u8>,
) -> Result<v1::IssuedSvid, tonic::Status> {
    let pem = std::fs::read(mesh.path("control/bundle.pem")).unwrap();
    let bundle = TrustBundle::from_pem(TRUST_DOMAIN.parse().unwrap(), &pem).unwrap();
    let mut client = EnrollmentClient::new(channel(bundle, mesh.proxies).await);
    let request = v1::JoinRequest { token: token.to_owned(), signing_request };
    client.join(request).await.map(tonic::Response::into_inner)
}

/// Joins as a workload of the namespace `shop` and writes its files, as any client can use them.
pub(crate) async fn enrolled(mesh: &Mesh, name: &str, directory: &Path) -> Files {
    let identity: Identity = id(name).parse().unwrap();
    let key = NewKey::generate().unwrap();
    let token = mesh.token(&format!("shop/{name}"));
    let issued = join(mesh, &token, key.request(&identity).unwrap()).await.unwrap();
    let chain: Vec<_> = issued.certificate_chain.into_iter().map(Into::into).collect();
    std::fs::create_dir_all(directory).unwrap();
    let files = Files {
        certificate: directory.join("certificate.pem"),
        key: directory.join("key.pem"),
        bundle: mesh.path("control/bundle.pem"),
    };
    write_atomic(&files.certificate, PUBLIC, svid::chain_pem(&chain).as_bytes()).unwrap();
    write_atomic(&files.key, PRIVATE, key.to_pem().as_bytes()).unwrap();
    files
}
