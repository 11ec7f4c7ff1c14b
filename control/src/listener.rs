//! Accepting connections: limits, handshakes, time-outs, and who is there.
//!
//! Every listener serves an [`axum::Router`] through hyper directly, because only so can slow clients
//! be cut off: a handshake, a request's head and the first request each have their time. What the
//! requests mean is not this module's business.

mod unix;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use picket_certs::{Leaf, Refusal};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use crate::peer::{Peer, Proof};

pub use unix::SocketError;

pub(crate) use unix::bind as bind_unix;

/// Connections of those who proved who they are, per listener.
const KNOWN: usize = 8192;
/// Connections of those who did not, or not yet. Apart, so that strangers cannot shut proxies out.
const STRANGERS: usize = 256;
/// How long a handshake, a request's head, or the first request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a stranger's connection may last: enough to join.
const STRANGERS_TIME: Duration = Duration::from_secs(30);
/// How often an idle HTTP/2 connection is asked whether it is still there, and how long it may think.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A place where connections come in.
pub(crate) enum Listener {
    /// TLS; the configuration is asked for anew at each connection.
    Tls(TcpListener, Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>),
    /// Plain HTTP, for liveness, readiness and metrics.
    Plain(TcpListener),
    /// The operators' unix socket.
    Unix(tokio::net::UnixListener),
}

/// A connection that was accepted, before anything was said.
enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tls(listener, _) | Self::Plain(listener) => {
                listener.accept().await.map(|(stream, address)| Accepted::Tcp(stream, address))
            }
            Self::Unix(listener) => {
                listener.accept().await.map(|(stream, _)| Accepted::Unix(stream))
            }
        }
    }
}

/// Serves a listener until `stop`; open connections are then ended politely, tracked by `tasks`.
pub(crate) async fn serve(
    listener: Listener,
    router: Router,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    let known = Arc::new(Semaphore::new(KNOWN));
    loop {
        // A place first: whoever cannot be served waits outside, where it costs nothing.
        let place = async {
            let stranger = Arc::clone(&strangers).acquire_owned().await;
            (stranger, listener.accept().await)
        };
        let (stranger, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            (Ok(stranger), accepted) = place => (stranger, accepted),
            else => return,
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Such as too many open files: it passes, but not at once.
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (router, stop, known) = (router.clone(), stop.clone(), Arc::clone(&known));
        let tls = match &listener {
            Listener::Tls(_, config) => Some(TlsAcceptor::from(config())),
            Listener::Plain(_) | Listener::Unix(_) => None,
        };
        tasks.spawn(async move {
            match (accepted, tls) {
                (Accepted::Tcp(stream, address), Some(tls)) => {
                    let Some(stream) = handshake(tls, stream, address).await else { return };
                    let (proof, is_http2) = facts(&stream);
                    let peer = Peer { proof, address: Some(address) };
                    if matches!(peer.proof, Proof::Nothing) {
                        let ended = connection(stream, peer, is_http2, router, stop);
                        // Either way it is over.
                        let _over = timeout(STRANGERS_TIME, ended).await;
                        return;
                    }
                    drop(stranger);
                    let Ok(_place) = known.try_acquire_owned() else {
                        tracing::warn!(%address, "more than {KNOWN} connections: one was closed");
                        return;
                    };
                    connection(stream, peer, is_http2, router, stop).await;
                }
                (Accepted::Tcp(stream, address), None) => {
                    let peer = Peer { proof: Proof::Nothing, address: Some(address) };
                    connection(stream, peer, false, router, stop).await;
                }
                (Accepted::Unix(stream), _) => {
                    let Some(peer) = unix::peer(&stream) else { return };
                    connection(stream, peer, false, router, stop).await;
                }
            }
        });
    }
}

type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

async fn handshake(tls: TlsAcceptor, stream: TcpStream, address: SocketAddr) -> Option<TlsStream> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "no TCP_NODELAY");
    }
    match timeout(PATIENCE, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            let tls = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
            match tls.and_then(Refusal::find) {
                Some(refusal) => tracing::warn!(
                    %address, code = refusal.code(), error = %crate::chain(&refusal),
                    "a client's certificate was refused"
                ),
                None => tracing::debug!(%address, %error, "a handshake failed"),
            }
            None
        }
        Err(_) => {
            tracing::debug!(%address, "a handshake took too long");
            None
        }
    }
}

fn facts(stream: &TlsStream) -> (Proof, bool) {
    let (_, session) = stream.get_ref();
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    // The verifier has read the same leaf; one that cannot be read again proves nothing.
    let proof = match leaf.map(|der| Leaf::from_der(der)) {
        Some(Ok(leaf)) => Proof::Certificate(Arc::new(leaf)),
        Some(Err(_)) | None => Proof::Nothing,
    };
    (proof, session.alpn_protocol() == Some(b"h2"))
}

async fn connection<S>(
    stream: S,
    peer: Peer,
    is_http2: bool,
    router: Router,
    stop: CancellationToken,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let seen = Arc::new(AtomicBool::new(false));
    let seen_here = Arc::clone(&seen);
    let service = service_fn(move |request: Request<Incoming>| {
        seen_here.store(true, Ordering::Relaxed);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        router.clone().call(request)
    });
    let builder = builder(is_http2);
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let first = sleep(PATIENCE);
    tokio::pin!(first);
    let (mut is_waiting, mut is_stopping) = (true, false);
    loop {
        tokio::select! {
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            // hyper waits for an HTTP/2 preface for ever.
            () = first.as_mut(), if is_waiting => {
                if !seen.load(Ordering::Relaxed) {
                    return;
                }
                is_waiting = false;
            }
            () = stop.cancelled(), if !is_stopping => {
                served.as_mut().graceful_shutdown();
                is_stopping = true;
            }
        }
    }
}

fn builder(is_http2: bool) -> auto::Builder<TokioExecutor> {
    let builder = auto::Builder::new(TokioExecutor::new());
    // The protocol is known, by ALPN or by the kind of listener, so that nothing has to be guessed.
    let mut builder = if is_http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(32 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_concurrent_streams(64)
        .max_header_list_size(16 * 1024);
    builder
}
