//! The sockets, and what is served on each.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use picket_api::v1::configuration_server::ConfigurationServer;
use picket_api::v1::enrollment_server::EnrollmentServer;
use rustls::ServerConfig;
use tokio::net::{TcpListener, UnixListener};
use tonic::Status;

use super::ControlError;
use crate::authority::ListenerTls;
use crate::config::Config;
use crate::configuration::ConfigurationService;
use crate::control::Control;
use crate::enrollment::EnrollmentService;
use crate::ingest::TraceService;
use crate::listener::{self, Listener};
use crate::operator::Addresses;
use crate::peer::{Peer, Proof};
use crate::state::StateDir;

/// Largest message of an enrollment: a token and a signing request.
const MAX_ENROLLMENT: usize = 64 * 1024;
/// Largest report of a proxy.
const MAX_REPORT: usize = 256 * 1024;

/// The sockets, before anything is served on them.
pub(super) struct Bound {
    proxies: Socket,
    operators: Option<Socket>,
    health: Option<Socket>,
    metrics: Option<Socket>,
    unix: (UnixListener, PathBuf),
}

struct Socket {
    listener: TcpListener,
    address: SocketAddr,
}

impl Socket {
    async fn bind(key: &'static str, address: SocketAddr) -> Result<Self, ControlError> {
        let bound = TcpListener::bind(address).await;
        let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) =
            bound.map_err(|source| ControlError::Listen { key, address, source })?;
        Ok(Self { listener, address })
    }

    async fn maybe(
        key: &'static str,
        address: Option<SocketAddr>,
    ) -> Result<Option<Self>, ControlError> {
        match address {
            Some(address) => Self::bind(key, address).await.map(Some),
            None => Ok(None),
        }
    }
}

impl Bound {
    pub(super) async fn bind(config: &Config, state: &StateDir) -> Result<Self, ControlError> {
        let path = state.socket();
        Ok(Self {
            proxies: Socket::bind("listen.proxies", config.listen_proxies).await?,
            operators: Socket::maybe("listen.operators", config.listen_operators).await?,
            health: Socket::maybe("listen.health", config.listen_health).await?,
            metrics: Socket::maybe("listen.metrics", config.listen_metrics).await?,
            unix: (listener::bind_unix(&path)?, path),
        })
    }

    pub(super) fn addresses(&self) -> Addresses {
        Addresses {
            proxies: self.proxies.address,
            operators: self.operators.as_ref().map(|socket| socket.address),
            health: self.health.as_ref().map(|socket| socket.address),
            metrics: self.metrics.as_ref().map(|socket| socket.address),
            socket: self.unix.1.clone(),
        }
    }

    pub(super) fn serve(self, control: &Arc<Control>) {
        let spawn = |listener, router| {
            let (stop, tasks) = (control.stop.clone(), control.tasks.clone());
            control.tasks.spawn(listener::serve(listener, router, stop, tasks));
        };
        let api = crate::api::router(Arc::clone(control));
        spawn(
            Listener::Tls(self.proxies.listener, tls(control, |t| &t.proxies)),
            proxies_router(control),
        );
        spawn(Listener::Unix(self.unix.0), api.clone());
        if let Some(Socket { listener, .. }) = self.operators {
            spawn(Listener::Tls(listener, tls(control, |t| &t.operators)), api);
        }
        if let Some(Socket { listener, .. }) = self.health {
            spawn(Listener::Plain(listener), crate::api::health(Arc::clone(control)));
        }
        if let Some(Socket { listener, .. }) = self.metrics {
            spawn(Listener::Plain(listener), crate::api::metrics(Arc::clone(control)));
        }
    }
}

type Tls = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

fn tls(control: &Arc<Control>, pick: fn(&ListenerTls) -> &Arc<ServerConfig>) -> Tls {
    let control = Arc::clone(control);
    Arc::new(move || Arc::clone(pick(&control.authority.listener_tls())))
}

/// The gRPC services, behind the one gate that keeps strangers out.
fn proxies_router(control: &Arc<Control>) -> Router {
    let enrollment = EnrollmentServer::new(EnrollmentService::new(Arc::clone(control)));
    let configuration = ConfigurationServer::new(ConfigurationService::new(Arc::clone(control)));
    tonic::service::Routes::new(enrollment.max_decoding_message_size(MAX_ENROLLMENT))
        .add_service(configuration.max_decoding_message_size(MAX_REPORT))
        .add_service(TraceService::new(Arc::clone(control)))
        .into_axum_router()
        .layer(middleware::from_fn(gate))
}

/// A stranger may join. A certificate that has ended may renew, too. Nobody else without a live
/// certificate may even learn which methods there are.
async fn gate(request: Request, next: Next) -> Response {
    let is_open = match request.uri().path() {
        "/picket.v1.Enrollment/Join" => true,
        path => match Peer::of(request.extensions()).proof {
            Proof::Certificate(leaf) => {
                leaf.not_after > SystemTime::now() || path == "/picket.v1.Enrollment/Renew"
            }
            Proof::Nothing | Proof::UnixUser(_) => false,
        },
    };
    if is_open {
        return next.run(request).await;
    }
    let refused = Status::unauthenticated("a workload's live certificate is needed: join or renew");
    refused.into_http()
}
