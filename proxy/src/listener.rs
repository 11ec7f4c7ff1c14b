//! Where connections come in: from the socket to a connection whose peer is known, or to the record
//! of why not.

use std::cell::{Cell, OnceCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use picket_certs::Refusal;
use picket_policy::MtlsMode;
use prometheus_client::metrics::gauge::Gauge;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::Protocol;
use crate::connection::{Connection, TlsFacts};
use crate::drain::{OpenGuard, Phase};
use crate::flag::Flag;
use crate::peer::{HandshakeError, Peer};
use crate::snapshot::Snapshot;
use crate::worker::{Port, Worker};
use crate::{server, tcp};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// The first byte of a TLS handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// For how long, and how many bytes, somebody who was refused is listened to.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 64 << 10;

/// Binds an address once for each worker; the kernel spreads connections over them.
pub(crate) fn bind(
    mut address: SocketAddr,
    workers: usize,
) -> io::Result<Vec<std::net::TcpListener>> {
    // Sharing a port between workers would let another process of the same user share it too, and
    // take half of the connections; one that does not share finds out.
    if address.port() != 0 {
        let probe = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        probe.set_reuse_address(true)?;
        probe.bind(&address.into())?;
    }
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = std::net::TcpListener::from(socket);
        // Port 0 is any free one, but the same for all.
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Accepts connections to the service until the proxy drains.
pub(crate) async fn inbound(worker: Rc<Worker>, port: Rc<Port>, socket: TcpListener) {
    accept(&worker, &socket, Phase::Inbound, |stream, remote| {
        let open = Rc::new(worker.shared.drain.inbound());
        let gauge = worker.shared.metrics.open_connections.inbound.clone();
        let (worker, port) = (Rc::clone(&worker), Rc::clone(&port));
        async move {
            let _counted = Counted::new(gauge);
            serve_inbound(worker, port, stream, remote, open).await;
        }
    })
    .await;
}

/// Accepts the service's own calls until nobody can need it any more.
pub(crate) async fn outbound(worker: Rc<Worker>, socket: TcpListener) {
    accept(&worker, &socket, Phase::Outbound, |stream, remote| {
        let open = Rc::new(worker.shared.drain.outbound());
        let gauge = worker.shared.metrics.open_connections.outbound.clone();
        let worker = Rc::clone(&worker);
        async move {
            let _counted = Counted::new(gauge);
            server::outbound(worker, stream, remote, open).await;
        }
    })
    .await;
}

async fn accept<F: Future<Output = ()> + 'static>(
    worker: &Rc<Worker>,
    socket: &TcpListener,
    until: Phase,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) {
    let limit = Arc::new(Semaphore::new(worker.shared.config.limits.connections));
    let mut phase = worker.shared.drain.watch();
    let mut stop = pin!(phase.reached(until));
    loop {
        let accepted = async {
            // Beyond the limit connections wait in the kernel's queue.
            let permit = Arc::clone(&limit).acquire_owned().await;
            (permit, socket.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            // Once the end has begun, nothing that still waits is taken.
            biased;
            () = &mut stop => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                let connection = serve(stream, remote);
                tokio::task::spawn_local(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely; a pause lets some be given back.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_inbound(
    worker: Rc<Worker>,
    port: Rc<Port>,
    stream: TcpStream,
    remote: SocketAddr,
    open: Rc<OpenGuard>,
) {
    // Workers start listening only when there is a snapshot, and it never goes away.
    let Some(snapshot) = worker.shared.current.load() else { return };
    let Ok(local) = stream.local_addr() else { return };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "an accepted connection broke at once");
        return;
    }
    let mut connection = Connection {
        worker,
        port,
        remote,
        local,
        identity: Arc::clone(&snapshot.identity),
        tls: None,
        sni: None,
        peer: None,
        findings: None,
        preamble: OnceCell::new(),
        requests: Cell::new(0),
        lost: Flag::default(),
        cut: Flag::default(),
        open,
    };
    let timeout = connection.worker.shared.config.limits.handshake_timeout;
    let handshake = handshake(&mut connection, &snapshot, stream);
    let result = tokio::time::timeout(timeout, handshake).await;
    match result.unwrap_or(Err(HandshakeError::Timeout.into())) {
        Ok(Accepted::Tls(stream)) => serve_stream(connection, *stream).await,
        Ok(Accepted::Plain(stream)) => serve_stream(connection, stream).await,
        Err(Refused { error, stream }) => {
            let audit = connection.audit_connection();
            let generation = Arc::clone(&snapshot.policy.generation);
            audit.connection_refused(Some(generation), error.code(), &crate::words(&error));
            if let Some(stream) = stream {
                linger(stream).await;
            }
        }
    }
}

/// A handshake that failed, and the stream if an alert was sent on it.
struct Refused {
    error: HandshakeError,
    stream: Option<TcpStream>,
}

impl From<HandshakeError> for Refused {
    fn from(error: HandshakeError) -> Self {
        Self { error, stream: None }
    }
}

/// Lets the other side read the alert. In TLS 1.3 a client may have sent its request by then, and a socket that is
/// closed with bytes unread resets the connection: what was sent on it is lost (RFC 1122 section 4.2.2.13).
async fn linger(mut stream: TcpStream) {
    let to_the_end = async {
        let mut unread = [0; 1024];
        let mut left = LINGER_BYTES;
        stream.shutdown().await?;
        while left > 0 {
            match stream.read(&mut unread).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        io::Result::Ok(())
    };
    let _ended = tokio::time::timeout(LINGER, to_the_end).await;
}

enum Accepted {
    Tls(Box<TlsStream<TcpStream>>),
    Plain(TcpStream),
}

/// Finds out who the peer is, as the port's mTLS mode demands.
async fn handshake(
    connection: &mut Connection,
    snapshot: &Snapshot,
    stream: TcpStream,
) -> Result<Accepted, Refused> {
    let port = &connection.port.config;
    let (mode, _) = snapshot.policy.rules.mtls_mode(Some(port.forward.port()));
    match mode {
        MtlsMode::Strict => {}
        MtlsMode::Disable => return Ok(Accepted::Plain(stream)),
        MtlsMode::Permissive => {
            let mut first = [0];
            let seen = stream.peek(&mut first).await.map_err(HandshakeError::Io)?;
            if seen == 0 || first != [TLS_HANDSHAKE] {
                return Ok(Accepted::Plain(stream));
            }
        }
    }
    let identity = &snapshot.identity;
    let config = if port.protocol == Protocol::Tcp { &identity.tcp } else { &identity.http };
    let acceptor = TlsAcceptor::from(Arc::clone(config));
    let accepted = acceptor.accept(stream).into_fallible().await;
    let stream = accepted.map_err(|(error, stream)| Refused {
        error: HandshakeError::from_io(error),
        stream: Some(stream),
    })?;
    let (_, tls) = stream.get_ref();
    connection.tls = Some(TlsFacts::of(tls));
    connection.sni = tls.server_name().map(Into::into);
    let peer = Peer::of(tls, identity, SystemTime::now())?;
    // It may have been revoked since the handshake began.
    let newest = connection.worker.shared.current.load();
    if newest
        .is_some_and(|newest| newest.revocations.certificate(&peer, crate::unix_now()).is_some())
    {
        return Err(HandshakeError::Refused(Refusal::Revoked).into());
    }
    connection.peer = Some(Arc::new(peer));
    Ok(Accepted::Tls(Box::new(stream)))
}

async fn serve_stream<S: server::Stream>(connection: Connection, stream: S) {
    match connection.port.config.protocol {
        Protocol::Tcp => tcp::serve(connection, stream).await,
        Protocol::Http | Protocol::Http2 => server::inbound(connection, stream).await,
    }
}

/// Counts an open connection for as long as it lives.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
