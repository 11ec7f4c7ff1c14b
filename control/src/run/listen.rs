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
    proxies: TcpListener,
    operators: Option<TcpListener>,
    health: Option<TcpListener>,
    socket: (UnixListener, PathBuf),
}

impl Bound {
    pub(super) async fn bind(config: &Config, state: &StateDir) -> Result<Self, ControlError> {
        let tcp = async |key, address: SocketAddr| {
            let bound = TcpListener::bind(address).await;
            bound.map_err(|source| ControlError::Listen { key, address, source })
        };
        let proxies = tcp("listen.proxies", config.listen_proxies).await?;
        let operators = match config.listen_operators {
            Some(address) => Some(tcp("listen.operators", address).await?),
            None => None,
        };
        let health = match config.listen_health {
            Some(address) => Some(tcp("listen.health", address).await?),
            None => None,
        };
        let path = state.socket();
        Ok(Self { proxies, operators, health, socket: (listener::bind_unix(&path)?, path) })
    }

    pub(super) fn addresses(&self) -> Result<Addresses, ControlError> {
        let of = |listener: &TcpListener, key, configured| {
            let address = listener.local_addr();
            address.map_err(|source| ControlError::Listen { key, address: configured, source })
        };
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let optional = |listener: &Option<TcpListener>, key| {
            listener.as_ref().map(|l| of(l, key, nowhere)).transpose()
        };
        Ok(Addresses {
            proxies: of(&self.proxies, "listen.proxies", nowhere)?,
            operators: optional(&self.operators, "listen.operators")?,
            health: optional(&self.health, "listen.health")?,
            socket: self.socket.1.clone(),
        })
    }

    pub(super) fn serve(self, control: &Arc<Control>) {
        let spawn = |listener, router| {
            let (stop, tasks) = (control.stop.clone(), control.tasks.clone());
            control.tasks.spawn(listener::serve(listener, router, stop, tasks));
        };
        let api = crate::api::router(Arc::clone(control));
        spawn(Listener::Tls(self.proxies, tls(control, |t| &t.proxies)), proxies_router(control));
        spawn(Listener::Unix(self.socket.0), api.clone());
        if let Some(listener) = self.operators {
            spawn(Listener::Tls(listener, tls(control, |t| &t.operators)), api);
        }
        if let Some(listener) = self.health {
            spawn(Listener::Plain(listener), crate::api::health(Arc::clone(control)));
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
