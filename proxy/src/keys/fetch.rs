//! Fetches one key set, within limits of time and size. Redirects are not followed: an issuer's URL
//! is configuration, and where it points is not the issuer's to change.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HeaderValue};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use picket_certs::tls;
use picket_policy::jwt::{KeySet, KeySetError, RemoteKeys};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;

/// Largest answer that is read, in bytes.
const MAX_SIZE: usize = 1 << 20;

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{0:?} is not a URL")]
    Url(String),
    #[error("the issuer cannot be reached")]
    Http(#[source] hyper_util::client::legacy::Error),
    #[error("the issuer did not answer within {0:?}")]
    Timeout(Duration),
    #[error("the issuer answered {0}")]
    Status(StatusCode),
    #[error("the issuer's answer is larger than {MAX_SIZE} bytes")]
    TooLarge,
    #[error("the issuer's answer broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the discovery document cannot be read")]
    Discovery(#[source] serde_json::Error),
    #[error("the issuer's answer is not a key set")]
    KeySet(#[from] KeySetError),
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetcherError {
    #[error("jwks.caCertificate cannot be read")]
    File(#[source] picket_certs::files::FileError),
    #[error("jwks.caCertificate has no usable certificate")]
    Pem,
    #[error("TLS cannot be configured")]
    Tls(#[source] rustls::Error),
}

/// An HTTP client for key sets.
#[derive(Clone)]
pub(crate) struct Fetcher(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

#[derive(Deserialize)]
struct Discovery {
    jwks_uri: String,
}

impl Fetcher {
    /// Believes the system's authorities, and those in a file.
    pub(crate) fn new(ca_certificate: Option<&Path>) -> Result<Self, FetcherError> {
        let mut roots = RootCertStore::empty();
        // A container may have none: then only http and the configured authorities work.
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        if let Some(path) = ca_certificate {
            let pem = picket_certs::files::read_public(path).map_err(FetcherError::File)?;
            let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).flatten().collect();
            if roots.add_parsable_certificates(found).0 == 0 {
                return Err(FetcherError::Pem);
            }
        }
        let config = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(FetcherError::Tls)?
            .with_root_certificates(Arc::new(roots))
            .with_no_client_auth();
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1();
        Ok(Self(Client::builder(TokioExecutor::new()).build(connector.build())))
    }

    pub(super) async fn fetch(
        &self,
        keys: &RemoteKeys,
        timeout: Duration,
    ) -> Result<KeySet, FetchError> {
        tokio::time::timeout(timeout, self.fetch_keys(keys))
            .await
            .unwrap_or(Err(FetchError::Timeout(timeout)))
    }

    async fn fetch_keys(&self, keys: &RemoteKeys) -> Result<KeySet, FetchError> {
        let mut text = self.get(&keys.url()).await?;
        if let RemoteKeys::Discovery(_) = keys {
            let found: Discovery = serde_json::from_slice(&text).map_err(FetchError::Discovery)?;
            text = self.get(&found.jwks_uri).await?;
        }
        Ok(KeySet::parse(&String::from_utf8_lossy(&text))?)
    }

    async fn get(&self, url: &str) -> Result<Bytes, FetchError> {
        let uri: Uri = url.parse().map_err(|_| FetchError::Url(url.to_owned()))?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        let response = self.0.request(request).await.map_err(FetchError::Http)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        match Limited::new(response.into_body(), MAX_SIZE).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge),
            Err(error) => Err(FetchError::Body(error)),
        }
    }
}
