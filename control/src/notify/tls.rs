//! Whom sinks are believed by: the authorities of the system, or those that a sink names.

use std::io;
use std::path::Path;
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt as _;
use picket_certs::files;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Believes the authorities of a file, else those of the system or of `SSL_CERT_FILE`.
pub(super) fn config(authorities: Option<&Path>) -> io::Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(picket_certs::tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match authorities {
        Some(path) => builder.with_root_certificates(Arc::new(roots(path)?)),
        None => builder.with_native_roots()?,
    };
    Ok(Arc::new(builder.with_no_client_auth()))
}

fn roots(path: &Path) -> io::Result<RootCertStore> {
    let refused = |why: String| {
        io::Error::other(format!(
            "caCertificate {} {why}; name a PEM file with certificates of authorities",
            path.display()
        ))
    };
    let pem = files::read_public(path)
        .map_err(|error| refused(format!("cannot be read: {}", crate::chain(&error))))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| refused(format!("is not PEM: {error}")))?;
        roots.add(certificate).map_err(|error| refused(format!("is not believed: {error}")))?;
    }
    match roots.is_empty() {
        true => Err(refused("holds no certificate".to_owned())),
        false => Ok(roots),
    }
}
