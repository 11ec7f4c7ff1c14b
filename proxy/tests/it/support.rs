//! Starts proxies from files and calls them.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use picket_proxy::config::Config;
use picket_proxy::{Ended, ProxyError};
use picket_testkit::otlp::Received;
use picket_testkit::{Echo, Mesh, OtlpSink};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) const TRUST_DOMAIN: &str = "example.org";

/// Lets `web` do anything and is what most tests begin with.
pub(crate) const ALLOW_WEB: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-web, namespace: shop}
spec:
  action: ALLOW
  rules:
  - from: [{source: {principals: ["example.org/ns/shop/sa/web"]}}]
"#;

/// A running proxy beside an echo service, as `spiffe://example.org/ns/shop/sa/<account>`.
pub(crate) struct Sidecar {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) echo: Echo,
    pub(crate) sink: OtlpSink,
    pub(crate) directory: TempDir,
    pub(crate) inbound: SocketAddr,
    pub(crate) outbound: SocketAddr,
    pub(crate) admin: SocketAddr,
    account: String,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<Ended, ProxyError>>,
}

/// What a proxy is started with.
pub(crate) struct Options<'a> {
    pub(crate) account: &'a str,
    pub(crate) policies: &'a str,
    pub(crate) peers: &'a str,
    /// Further keys of `proxy.yaml`.
    pub(crate) config: &'a str,
    /// Further keys under `files`.
    pub(crate) files: &'a str,
    pub(crate) protocol: &'a str,
    pub(crate) certificate_life: Duration,
    pub(crate) workers: usize,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            account: "orders",
            policies: ALLOW_WEB,
            peers: "peers: []\n",
            config: "",
            files: "",
            protocol: "http",
            certificate_life: Duration::from_secs(3600),
            workers: 2,
        }
    }
}

impl Sidecar {
    pub(crate) async fn start(policies: &str) -> Self {
        Self::with(Options { policies, ..Options::default() }).await
    }

    pub(crate) async fn with(options: Options<'_>) -> Self {
        let mesh = Arc::new(Mesh::new(TRUST_DOMAIN));
        Self::in_mesh(&mesh, options).await
    }

    pub(crate) async fn in_mesh(mesh: &Arc<Mesh>, options: Options<'_>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let life = options.certificate_life;
        mesh.files(&root.join("identity"), "shop", options.account, life);
        fs::create_dir(root.join("policies")).unwrap();
        fs::write(root.join("policies/policies.yaml"), options.policies).unwrap();
        fs::write(root.join("peers.yaml"), options.peers).unwrap();
        let echo = Echo::start().await;
        let sink = OtlpSink::start().await;
        let Options { account, config, files, protocol, workers, .. } = options;
        let (forward, otlp) = (echo.address(), sink.url());
        let path = root.display();
        let text = format!(
            "trustDomain: {TRUST_DOMAIN}\n\
             stateDir: {path}/state\n\
             workload: {{namespace: shop, serviceAccount: {account}, labels: {{app: {account}}}}}\n\
             files:\n\
             \x20 certificate: {path}/identity/svid.pem\n\
             \x20 key: {path}/identity/key.pem\n\
             \x20 bundle: {path}/identity/bundle.pem\n\
             \x20 policyDir: {path}/policies\n\
             \x20 peers: {path}/peers.yaml\n\
             \x20 otlp: {otlp}\n\
             {files}\
             inbound: [{{listen: '127.0.0.1:0', forward: '{forward}', protocol: {protocol}}}]\n\
             outbound: {{listen: '127.0.0.1:0'}}\n\
             admin: {{listen: '127.0.0.1:0'}}\n\
             workers: {workers}\n\
             {config}"
        );
        let config = Config::load(&text, "proxy.yaml", std::iter::empty()).unwrap();
        let (shutdown, stop) = oneshot::channel();
        let task = tokio::spawn(picket_proxy::run(config, async {
            let _dropped = stop.await;
        }));
        let addresses = addresses(root).await;
        let address = |value: &serde_json::Value| value.as_str().unwrap().parse().unwrap();
        let sidecar = Self {
            mesh: Arc::clone(mesh),
            echo,
            sink,
            inbound: address(&addresses["inbound"][0]),
            outbound: address(&addresses["outbound"]),
            admin: address(&addresses["admin"]),
            directory,
            account: account.to_owned(),
            shutdown: Some(shutdown),
            task,
        };
        sidecar.ready().await;
        sidecar
    }

    async fn ready(&self) {
        let started = Instant::now();
        loop {
            if self.admin("/readyz").await.0 == StatusCode::OK {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "the proxy is not ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Asks the admin listener.
    pub(crate) async fn admin(&self, path: &str) -> (StatusCode, String) {
        let stream = TcpStream::connect(self.admin).await.unwrap();
        let request = get(path);
        let (status, _, body) = send(http1(stream).await, request).await;
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// The TLS configuration of a caller; `account` is none for a stranger.
    pub(crate) fn client(&self, account: Option<&str>, alpn: &[u8]) -> Arc<ClientConfig> {
        let svid = account.map(|account| self.mesh.svid("shop", account));
        let server = self.mesh.id("shop", &self.account);
        self.mesh.client(svid.as_ref(), &server, alpn)
    }

    /// Connects as somebody.
    pub(crate) async fn connect(
        &self,
        account: Option<&str>,
        alpn: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        connect(self.inbound, self.client(account, alpn)).await
    }

    /// An HTTP/1.1 connection as `web`.
    pub(crate) async fn web(&self) -> Client {
        http1(self.connect(Some("web"), b"http/1.1").await.unwrap()).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn call(
        &self,
        account: &str,
        request: Request<Full<Bytes>>,
    ) -> (StatusCode, HeaderMap, Bytes) {
        let stream = self.connect(Some(account), b"http/1.1").await.unwrap();
        send(http1(stream).await, request).await
    }

    /// Sends bytes as they are and returns all that comes back.
    pub(crate) async fn raw(&self, account: &str, bytes: &[u8]) -> String {
        let mut stream = self.connect(Some(account), b"http/1.1").await.unwrap();
        stream.write_all(bytes).await.unwrap();
        read_all(&mut stream).await
    }

    /// Ends the proxy in order.
    pub(crate) async fn stop(mut self) -> (Ended, Vec<Received>) {
        self.begin_stop();
        self.stopped().await
    }

    /// Begins the end, without waiting for it.
    pub(crate) fn begin_stop(&mut self) {
        let _gone = self.shutdown.take().unwrap().send(());
    }

    pub(crate) async fn stopped(mut self) -> (Ended, Vec<Received>) {
        let ended = (&mut self.task).await.unwrap().unwrap();
        (ended, self.sink.spans())
    }
}

async fn addresses(root: &Path) -> serde_json::Value {
    let started = Instant::now();
    loop {
        if let Ok(text) = fs::read_to_string(root.join("state/addresses.json")) {
            return serde_json::from_str(&text).unwrap();
        }
        assert!(started.elapsed() < Duration::from_secs(10), "the proxy does not listen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("orders.shop").unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

/// Reads until the other side closes or stays silent for a while.
pub(crate) async fn read_all(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut buffer)).await;
        match read {
            Ok(Ok(read)) if read > 0 => bytes.extend_from_slice(&buffer[..read]),
            _ => return String::from_utf8_lossy(&bytes).into_owned(),
        }
    }
}

pub(crate) type Client = http1::SendRequest<Full<Bytes>>;

pub(crate) async fn http1<S>(stream: S) -> Client
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async move {
        let _ended = connection.with_upgrades().await;
    });
    client
}

pub(crate) async fn http2<S>(stream: S) -> http2::SendRequest<Full<Bytes>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (client, connection) = handshake.unwrap();
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    client
}

pub(crate) fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "orders").body(Full::default()).unwrap()
}

pub(crate) fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(path).header("host", "orders").body(Full::new(body.into())).unwrap()
}

pub(crate) async fn send(
    mut client: Client,
    request: Request<Full<Bytes>>,
) -> (StatusCode, HeaderMap, Bytes) {
    collect(client.send_request(request).await.unwrap()).await
}

pub(crate) async fn collect(response: Response<Incoming>) -> (StatusCode, HeaderMap, Bytes) {
    let (parts, body) = response.into_parts();
    (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
}

pub(crate) fn json(body: &[u8]) -> serde_json::Value {
    serde_json::from_slice(body).unwrap()
}
