//! TLS configurations made from an SVID and a verifier.
//!
//! TLS 1.3 with X25519MLKEM768 preferred; 1.2 only where it was asked for. AES-128-GCM is preferred
//! to AES-256-GCM: it is as strong as the P-256 keys beside it and cheaper per byte.

use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

use crate::svid::Svid;
use crate::verify::PeerVerifier;

/// The protocol versions that a listener or client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Versions {
    /// TLS 1.3 alone.
    #[default]
    Tls13,
    /// TLS 1.2 too, for old clients.
    Tls12And13,
}

impl Versions {
    fn list(self) -> &'static [&'static SupportedProtocolVersion] {
        const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
        match self {
            Self::Tls13 => TLS13,
            Self::Tls12And13 => rustls::ALL_VERSIONS,
        }
    }
}

/// The cryptography behind every connection: aws-lc-rs.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
            rustls::CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
            rustls::CipherSuite::TLS13_AES_256_GCM_SHA384 => 1,
            _ => 2,
        });
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

/// Why a configuration could not be made. Only a broken build of the cryptography leads here.
#[derive(Debug, thiserror::Error)]
#[error("the TLS configuration cannot be made")]
pub struct TlsConfigError(#[from] rustls::Error);

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl rustls::client::ResolvesClientCert for Fixed {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What a listener presents and demands. Make a new one whenever the SVID or the bundle changes: its
/// ticket keys are its own, so no session outlives the trust it was made under.
///
/// # Errors
/// See [`TlsConfigError`].
pub fn server_config(
    svid: &Svid,
    verifier: PeerVerifier,
    versions: Versions,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsConfigError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions.list())?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Fixed(svid.certified())));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// What a client presents and demands; `svid` is none only for a workload's first certificate.
///
/// # Errors
/// See [`TlsConfigError`].
pub fn client_config(
    svid: Option<&Svid>,
    verifier: PeerVerifier,
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsConfigError> {
    let verifier: Arc<dyn ServerCertVerifier> = Arc::new(verifier);
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(Versions::Tls13.list())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match svid {
        Some(svid) => builder.with_client_cert_resolver(Arc::new(Fixed(svid.certified()))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::in_memory_sessions(32);
    Ok(config)
}

#[cfg(test)]
mod tests;
