//! What the tests share: a control plane in a temporary directory, its operators and its proxies.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use picket_api::v1::configuration_client::ConfigurationClient;
use picket_api::v1::enrollment_client::EnrollmentClient;
use picket_api::v1::{self, ConfigUpdate, ProxyReport, proxy_report::Report};
use picket_certs::{
    CertificateAuthority, Expect, Identity, NewKey, PeerVerifier, SigningRequest, Svid,
    TrustBundle, tls,
};
use picket_control::operator::{Addresses, AuditPage, JoinToken, Problem, Status};
use picket_control::{Config, ControlError, run_with};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint, Uri};

pub(crate) const TRUST_DOMAIN: &str = "shop.example";

/// Nothing here should take longer.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) const POLICY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: orders, namespace: shop }
spec:
  rules:
  - from: [{ source: { principals: [shop.example/ns/shop/sa/web] } }]
";

/// A control plane that runs until it is stopped or dropped.
pub(crate) struct Mesh {
    pub(crate) directory: Arc<TempDir>,
    pub(crate) addresses: Addresses,
    pub(crate) bundle: TrustBundle,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ControlError>>,
}

impl Mesh {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts one in a new directory; `more` is added to its configuration.
    pub(crate) async fn start_with(more: &str) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        std::fs::create_dir(directory.path().join("policies")).unwrap();
        std::fs::write(directory.path().join("policies/orders.yaml"), POLICY).unwrap();
        Self::start_in(directory, more).await
    }

    pub(crate) async fn start_in(directory: Arc<TempDir>, more: &str) -> Self {
        Self::try_start(directory, more).await.unwrap()
    }

    pub(crate) async fn try_start(
        directory: Arc<TempDir>,
        more: &str,
    ) -> Result<Self, ControlError> {
        let config = config(directory.path(), more);
        let (stop, stopped) = oneshot::channel();
        let (ready, addresses) = oneshot::channel();
        let shutdown = async move {
            let _either = stopped.await;
        };
        let task = tokio::spawn(run_with(config, shutdown, ready));
        let Ok(addresses) = addresses.await else { return Err(task.await.unwrap().unwrap_err()) };
        let pem = std::fs::read(directory.path().join("state/bundle.pem")).unwrap();
        let bundle = TrustBundle::from_pem(TRUST_DOMAIN.parse().unwrap(), &pem).unwrap();
        Ok(Self { directory, addresses, bundle, stop: Some(stop), task })
    }

    /// Ends it as SIGTERM would.
    pub(crate) async fn stop(mut self) -> Arc<TempDir> {
        drop(self.stop.take());
        tokio::time::timeout(SOON, self.task).await.unwrap().unwrap().unwrap();
        self.directory
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// The mesh's own authority, to make certificates that it would not.
    pub(crate) fn authority(&self) -> CertificateAuthority {
        let read = |name| std::fs::read(self.path(name)).unwrap();
        CertificateAuthority::from_pem(&read("state/ca/certificate.pem"), &read("state/ca/key.pem"))
            .unwrap()
    }

    // === operators ===

    pub(crate) async fn request(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let stream = UnixStream::connect(&self.addresses.socket).await.unwrap();
        send(TokioIo::new(stream), method, path, body).await.unwrap()
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        self.request(Method::GET, path, None).await.json()
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: impl Serialize) -> T {
        let body = serde_json::to_value(body).unwrap();
        self.request(Method::POST, path, Some(body)).await.json()
    }

    pub(crate) async fn status(&self) -> Status {
        self.get("/api/v1/status").await
    }

    pub(crate) async fn token(&self, workload: &str) -> String {
        let body = serde_json::json!({ "workload": workload, "ttl": "10m" });
        self.post::<JoinToken>("/api/v1/join-tokens", body).await.token
    }

    /// All records that match, of every page.
    pub(crate) async fn records(&self, filter: &str) -> Vec<Map<String, Value>> {
        let mut records = Vec::new();
        let mut after = "0".to_owned();
        loop {
            let path = format!("/api/v1/audit/records?limit=5000&after={after}&{filter}");
            let page: AuditPage = self.get(&path).await;
            records.extend(page.records);
            after = page.next;
            if !page.more {
                return records;
            }
        }
    }

    /// The acts of one kind.
    pub(crate) async fn events(&self, event: &str) -> Vec<Map<String, Value>> {
        self.records(&format!("event={event}")).await
    }

    /// The events of a name, once there are so many.
    pub(crate) async fn until_events(&self, event: &str, count: usize) -> Vec<Map<String, Value>> {
        for _ in 0..500 {
            let events = self.events(event).await;
            if events.len() >= count {
                assert_eq!(events.len(), count, "{events:#?}");
                return events;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("there are not {count} events {event}");
    }

    // === proxies ===

    /// A connection to the listener for proxies.
    pub(crate) async fn channel(&self, svid: Option<&Svid>) -> Channel {
        self.try_channel(svid).await.unwrap()
    }

    pub(crate) async fn try_channel(
        &self,
        svid: Option<&Svid>,
    ) -> Result<Channel, tonic::transport::Error> {
        let expect = format!("spiffe://{TRUST_DOMAIN}/ns/picket-system/sa/control");
        let expect = Expect::Workload(expect.parse().unwrap());
        let verifier = PeerVerifier::new(self.bundle.clone(), expect);
        let config = Arc::new(tls::client_config(svid, verifier, &[b"h2"]).unwrap());
        let address = self.addresses.proxies;
        let connect = tower::service_fn(move |_: Uri| {
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = "control.picket-system".try_into().unwrap();
                connector.connect(name, stream).await.map(TokioIo::new)
            }
        });
        Endpoint::from_static("https://control").connect_with_connector(connect).await
    }

    pub(crate) async fn join(
        &self,
        token: &str,
        request: Vec<u8>,
    ) -> Result<v1::IssuedSvid, tonic::Status> {
        let mut client = EnrollmentClient::new(self.channel(None).await);
        let join = v1::JoinRequest { token: token.to_owned(), signing_request: request };
        client.join(join).await.map(tonic::Response::into_inner)
    }

    /// A workload that has joined: `shop/orders`.
    pub(crate) async fn svid(&self, workload: &str) -> Svid {
        let token = self.token(workload).await;
        let key = NewKey::generate().unwrap();
        let issued = self.join(&token, key.request(&identity(workload)).unwrap()).await.unwrap();
        svid(issued, &key)
    }

    pub(crate) async fn renew(&self, svid: &Svid) -> Result<Svid, tonic::Status> {
        let mut client = EnrollmentClient::new(self.channel(Some(svid)).await);
        let key = NewKey::generate().unwrap();
        let signing_request = key.request(&svid.leaf().identity).unwrap();
        let issued = client.renew(v1::RenewRequest { signing_request }).await?;
        Ok(self::svid(issued.into_inner(), &key))
    }

    /// A proxy with an open stream.
    pub(crate) async fn proxy(&self, svid: &Svid, hello: v1::Hello) -> Proxy {
        self.try_proxy(svid, hello).await.unwrap()
    }

    pub(crate) async fn try_proxy(
        &self,
        svid: &Svid,
        hello: v1::Hello,
    ) -> Result<Proxy, tonic::Status> {
        let mut client = ConfigurationClient::new(self.channel(Some(svid)).await);
        let (reports, stream) = mpsc::channel(16);
        reports.send(report(Report::Hello(hello))).await.unwrap();
        let updates = client.stream(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Proxy { reports, updates })
    }

    /// Waits until a proxy's state is as expected.
    pub(crate) async fn wait_for(&self, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
        let start = Instant::now();
        loop {
            let status = self.status().await;
            if is_so(&status) {
                return status;
            }
            assert!(start.elapsed() < SOON, "never came: {what}: {status:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The configuration of a mesh in a directory.
pub(crate) fn config(directory: &Path, more: &str) -> Config {
    let text = format!(
        "trustDomain: {TRUST_DOMAIN}\n\
         stateDir: {0}/state\n\
         policyDir: {0}/policies\n\
         listen: {{ proxies: '127.0.0.1:0', operators: '127.0.0.1:0', health: '127.0.0.1:0', \
         metrics: '127.0.0.1:0' }}\n\
         {more}\n",
        directory.display()
    );
    Config::load(&text, "control.yaml", std::iter::empty()).unwrap()
}

pub(crate) fn identity(workload: &str) -> Identity {
    let (namespace, account) = workload.split_once('/').unwrap();
    format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}").parse().unwrap()
}

pub(crate) fn svid(issued: v1::IssuedSvid, key: &NewKey) -> Svid {
    let chain = issued.certificate_chain.into_iter().map(Into::into).collect();
    Svid::new(chain, key.to_der()).unwrap()
}

/// A certificate that an authority signs for an identity, without asking anybody, `ago` ago.
pub(crate) fn signed(
    authority: &CertificateAuthority,
    identity: &Identity,
    ago: Duration,
    life: Duration,
) -> Svid {
    let key = NewKey::generate().unwrap();
    let request = SigningRequest::from_der(&key.request(identity).unwrap(), identity).unwrap();
    let at = std::time::SystemTime::now() - ago;
    let issued = authority.issue(identity, &request, life, at).unwrap();
    Svid::new(vec![issued.certificate], key.to_der()).unwrap()
}

/// What a proxy with one HTTP port says first.
pub(crate) fn hello(service: &str, port: u16) -> v1::Hello {
    v1::Hello {
        boot_id: format!("boot-{service}-{port}"),
        version: "0.1.0".to_owned(),
        service: service.to_owned(),
        inbound: vec![v1::Endpoint {
            address: format!("127.0.0.1:{port}"),
            service_port: 80,
            protocol: v1::Protocol::Http.into(),
        }],
        ..v1::Hello::default()
    }
}

pub(crate) fn report(report: Report) -> ProxyReport {
    ProxyReport { report: Some(report) }
}

/// The proxy's end of a stream.
pub(crate) struct Proxy {
    pub(crate) reports: mpsc::Sender<ProxyReport>,
    pub(crate) updates: Streaming<ConfigUpdate>,
}

impl Proxy {
    pub(crate) async fn next(&mut self) -> Result<ConfigUpdate, tonic::Status> {
        let update = tokio::time::timeout(SOON, self.updates.message()).await.unwrap();
        Ok(update?.expect("the stream ended"))
    }

    /// The next policies.
    pub(crate) async fn policies(&mut self) -> v1::PolicySet {
        loop {
            if let Some(policies) = self.next().await.unwrap().policies {
                return policies;
            }
        }
    }

    /// The services of the next peer set that is as expected.
    pub(crate) async fn peers(&mut self, is_so: impl Fn(&[v1::Peer]) -> bool) -> Vec<v1::Peer> {
        loop {
            if let Some(peers) = self.next().await.unwrap().peers
                && is_so(&peers.peers)
            {
                return peers.peers;
            }
        }
    }

    pub(crate) async fn acknowledge(&self, generation: &str, error: &str) {
        let answer = v1::Acknowledgement {
            generation: generation.to_owned(),
            error: error.to_owned(),
            applied_in_us: 250,
            ..v1::Acknowledgement::default()
        };
        self.report(answer).await;
    }

    /// Sends an acknowledgement.
    pub(crate) async fn report(&self, answer: v1::Acknowledgement) {
        self.reports.send(report(Report::Acknowledgement(answer))).await.unwrap();
    }
}

/// An HTTP answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: String,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        let text = String::from_utf8_lossy(&self.body);
        assert!(self.status.is_success(), "{}: {text}", self.status);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    pub(crate) fn problem(&self) -> Problem {
        assert_eq!(self.content_type, "application/problem+json");
        let problem: Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status.as_u16());
        problem
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }
}

/// One HTTP/1.1 request on a connection of its own.
pub(crate) async fn send<IO>(
    io: IO,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<Answer, hyper::Error>
where
    IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "control")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let response = sender.send_request(request).await?;
    let content_type = response.headers().get("content-type");
    let content_type = content_type.map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Answer { status, content_type, body })
}
