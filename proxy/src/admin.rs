//! The admin listener, on loopback: liveness, readiness, metrics, the configuration in force.
//!
//! Keys, tokens and policy texts with keys in them are not shown.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use picket_api::exposition;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::drain::Phase;
use crate::snapshot::Snapshot;
use crate::spool::Account;
use crate::worker::Shared;

/// What the admin listener shows.
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) account: Arc<Account>,
    pub(crate) boot: String,
}

/// Serves until the proxy is over.
pub(crate) async fn serve(admin: Arc<Admin>, socket: TcpListener) {
    loop {
        let stream = match socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = admin.answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(10));
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "an admin connection broke");
            }
        });
    }
}

/// As Kubernetes' own endpoints take it: `?verbose`, with or without a value, among others.
fn is_verbose(query: Option<&str>) -> bool {
    let names = query.unwrap_or_default().split('&').map(|pair| pair.split('=').next());
    names.into_iter().any(|name| name == Some("verbose"))
}

impl Admin {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/livez" | "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => self.readiness(is_verbose(request.uri().query())),
            "/metrics" => {
                let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
                let metrics = self.shared.metrics.text(&self.account);
                let (kind, metrics) = exposition::negotiate(accept, metrics);
                let mut response = text(StatusCode::OK, metrics);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                response
            }
            "/config_dump" => {
                let dump = self.dump().to_string();
                let mut response = text(StatusCode::OK, dump);
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(CONTENT_TYPE, json);
                response
            }
            "/witness" => match self.shared.witnessed.load_full() {
                Some(seen) if !seen.note.is_empty() => text(StatusCode::OK, seen.note.clone()),
                _ => text(StatusCode::NOT_FOUND, "no checkpoint was cosigned yet\n".to_owned()),
            },
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /livez, /readyz, /readyz?verbose, /metrics, /config_dump and /witness\n"
                    .to_owned(),
            ),
        }
    }

    /// Ready: a valid certificate and a policy set are in force, and no end is in sight.
    fn readiness(&self, verbose: bool) -> Response<Full<Bytes>> {
        let snapshot = self.shared.current.load();
        let snapshot = snapshot.as_deref();
        let checks = [
            ("certificate", certificate(snapshot)),
            ("policy", policy(snapshot)),
            ("serving", self.serving()),
        ];
        let ready = checks.iter().all(|(_, result)| result.is_ok());
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        if !verbose {
            return text(status, if ready { "ok\n" } else { "not ready\n" }.to_owned());
        }
        let lines = checks.iter().map(|(name, result)| match result {
            Ok(detail) => format!("[+]{name} ok: {detail}\n"),
            Err(detail) => format!("[-]{name} failed: {detail}\n"),
        });
        text(status, lines.collect())
    }

    fn serving(&self) -> Result<String, String> {
        match self.shared.drain.phase() {
            Phase::Serving => Ok("no end in sight".to_owned()),
            _ => Err("draining".to_owned()),
        }
    }

    fn dump(&self) -> Value {
        let config = &self.shared.config;
        let snapshot = self.shared.current.load();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "boot": self.boot,
            "workload": {
                "spiffe_id": config.workload.id.as_str(),
                "service": config.workload.service,
                "version": config.workload.version,
                "labels": config.workload.labels,
            },
            // Debug leaves the token out.
            "source": format!("{:?}", config.source),
            "inbound": config.inbound.iter().map(|port| json!({
                "listen": port.listen.to_string(),
                "forward": port.forward.to_string(),
                "protocol": format!("{:?}", port.protocol).to_lowercase(),
                "service_port": port.service_port,
                "mtls": snapshot.as_deref().map(|snapshot| {
                    snapshot.policy.rules.mtls_mode(Some(port.forward.port())).0.as_str()
                }),
            })).collect::<Vec<_>>(),
            "outbound": config.outbound.map(|address| address.to_string()),
            "workers": config.workers,
            "audit": {
                "emitted": self.account.emitted(),
                "acknowledged": self.account.acknowledged(),
                "pending": self.account.pending(),
                "lost": self.account.lost(),
                "spool_bytes": self.account.size(),
                "spool_limit": self.account.limit(),
            },
            "witness": self.shared.witnessed.load_full().map(|seen| json!({
                "key": seen.key,
                "log": seen.log,
                "size": seen.size,
                "refusal": seen.refusal,
            })),
            "in_force": snapshot.as_deref().map(in_force),
        })
    }
}

fn in_force(snapshot: &Snapshot) -> Value {
    let leaf = snapshot.identity.svid.leaf();
    json!({
        "generation": &*snapshot.policy.generation,
        "certificate": {
            "spiffe_id": snapshot.identity.id.as_str(),
            "serial": leaf.serial,
            "not_after_unix": crate::unix(leaf.not_after),
            "sha256": leaf.fingerprint_hex(),
        },
        "trust_bundle": {
            "trust_domain": snapshot.identity.bundle.trust_domain().as_str(),
            "authorities": snapshot.identity.bundle.authorities().len(),
            "fingerprint": snapshot.identity.bundle.fingerprint(),
        },
        "revocations": {
            "revision": snapshot.revocations.revision(),
            "entries": snapshot.revocations.len(),
        },
        "peers": snapshot.peers.services().iter().map(|service| json!({
            "spiffe_id": service.id.as_str(),
            "service": service.name,
            "namespace": service.namespace,
            "endpoints": service.endpoints.iter().map(|endpoint| json!({
                "address": endpoint.address.to_string(),
                "port": endpoint.service_port,
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}

fn certificate(snapshot: Option<&Snapshot>) -> Result<String, String> {
    let snapshot = snapshot.ok_or("there is none, or no policy yet")?;
    let not_after = snapshot.identity.svid.leaf().not_after;
    match not_after.duration_since(SystemTime::now()) {
        Ok(left) => Ok(format!("{} s left", left.as_secs())),
        Err(_) => Err("it has expired".to_owned()),
    }
}

fn policy(snapshot: Option<&Snapshot>) -> Result<String, String> {
    let snapshot = snapshot.ok_or("there is none, or no certificate yet")?;
    Ok(format!("generation {}", snapshot.policy.generation))
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
