//! A workload without a sidecar: it speaks to the control plane's listener for proxies by itself.

use std::io;
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use picket_api::v1;
use picket_api::v1::enrollment_client::EnrollmentClient;
use picket_certs::files::{PRIVATE, PUBLIC, write_atomic};
use picket_certs::{
    Expect, Identity, NewKey, PeerVerifier, SpiffeId, Svid, TrustBundle, TrustDomain, svid, tls,
};
use picket_testkit::mesh::Files;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::mesh::{Mesh, TRUST_DOMAIN, id};

/// A connection to the control plane; `svid` is none for somebody who has no certificate yet.
async fn channel(mesh: &Mesh, svid: Option<&Svid>) -> Channel {
    let trust_domain: TrustDomain = TRUST_DOMAIN.parse().unwrap();
    let pem = std::fs::read(mesh.path("control/bundle.pem")).unwrap();
    let bundle = TrustBundle::from_pem(trust_domain.clone(), &pem).unwrap();
    let control = SpiffeId::control_plane(&trust_domain).unwrap();
    let verifier = PeerVerifier::new(bundle, Expect::Workload(control));
    let config = Arc::new(tls::client_config(svid, verifier, &[b"h2"]).unwrap());
    let address = mesh.proxies;
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
    let mut client = EnrollmentClient::new(channel(mesh, None).await);
    let request = v1::JoinRequest { token: token.to_owned(), signing_request };
    client.join(request).await.map(tonic::Response::into_inner)
}

/// Asks for a further certificate with the one that is held.
pub(crate) async fn renew(
    mesh: &Mesh,
    held: &Files,
    signing_request: Vec<u8>,
) -> Result<v1::IssuedSvid, tonic::Status> {
    let read = |path| std::fs::read(path).unwrap();
    let svid = Svid::from_pem(&read(&held.certificate), &read(&held.key)).unwrap();
    let mut client = EnrollmentClient::new(channel(mesh, Some(&svid)).await);
    client.renew(v1::RenewRequest { signing_request }).await.map(tonic::Response::into_inner)
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
