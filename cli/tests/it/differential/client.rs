//! Sends a request as somebody who is all that the request says: over mTLS with the caller's
//! certificate, from his address, with his server name. Requests in a row that share a connection in
//! truth do so here.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use picket_policy::explain::{OneOrMany, Request};
use picket_testkit::Mesh;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use super::generate::{CALLERS, PARTNER, TRUST_DOMAIN};

/// The callers' certificates.
pub(super) struct Callers {
    /// By SPIFFE ID, or without one.
    configs: HashMap<Option<String>, Arc<ClientConfig>>,
}

/// What a caller gets to see of a decision.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Http {
        status: u16,
        headers: HeaderMap,
    },
    /// Whether something came back.
    Tcp {
        passed: bool,
    },
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Callers {
    pub(super) fn new(mesh: &Mesh, partner: &Mesh, server: (&str, &str)) -> Self {
        let server = mesh.id(server.0, server.1);
        let mut configs = HashMap::from([(None, mesh.client(None, &server, b""))]);
        for (domain, namespace, account) in CALLERS {
            let authority = match domain {
                TRUST_DOMAIN => mesh,
                PARTNER => partner,
                other => panic!("nobody certifies {other}"),
            };
            let svid = authority.svid(namespace, account);
            let id = format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
            configs.insert(Some(id), mesh.client(Some(&svid), &server, b""));
        }
        Self { configs }
    }

    async fn connect(&self, request: &Request, to: SocketAddr) -> std::io::Result<Box<dyn Stream>> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = request.source_ip {
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        if request.from.is_none() && request.sni.is_none() {
            return Ok(Box::new(stream));
        }
        let mut config = ClientConfig::clone(&self.configs[&request.from]);
        config.enable_sni = request.sni.is_some();
        let name = request.sni.clone().unwrap_or_else(|| "unnamed".to_owned());
        let name = ServerName::try_from(name).unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Ok(Box::new(stream))
    }

    /// Sends requests in their order, each to its place.
    pub(super) async fn send(
        &self,
        requests: &[Request],
        to: impl Fn(&Request) -> SocketAddr,
    ) -> Vec<Answer> {
        let mut open: Option<(Request, SendRequest<Empty<Bytes>>)> = None;
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            let to = to(request);
            if request.method.is_none() {
                answers.push(Answer::Tcp { passed: self.passes(request, to).await });
                continue;
            }
            let shared = open.take().filter(|(earlier, sender)| {
                same_connection(earlier, request) && !sender.is_closed()
            });
            let mut sender = match shared {
                Some((_, sender)) => sender,
                None => {
                    let stream = self.connect(request, to).await.unwrap();
                    let (sender, connection) =
                        http1::handshake(TokioIo::new(stream)).await.unwrap();
                    tokio::spawn(connection);
                    sender
                }
            };
            sender.ready().await.unwrap();
            let response = sender.send_request(message(request)).await.unwrap();
            let (head, body) = response.into_parts();
            body.collect().await.unwrap();
            answers.push(Answer::Http { status: head.status.as_u16(), headers: head.headers });
            open = Some((request.clone(), sender));
        }
        answers
    }

    /// Whether what is sent comes back: enough of it to be told from TLS.
    async fn passes(&self, request: &Request, to: SocketAddr) -> bool {
        let Ok(mut stream) = self.connect(request, to).await else { return false };
        let mut byte = [0];
        stream.write_all(b"hello, is anybody there?").await.is_ok()
            && stream.flush().await.is_ok()
            && stream.read_exact(&mut byte).await.is_ok()
    }
}

fn same_connection(a: &Request, b: &Request) -> bool {
    (&a.from, &a.sni, a.source_ip, a.destination_ip, a.port)
        == (&b.from, &b.sni, b.source_ip, b.destination_ip, b.port)
}

/// The request as it goes over the wire.
fn message(request: &Request) -> http::Request<Empty<Bytes>> {
    let mut message = http::Request::builder()
        .method(request.method.as_deref().unwrap())
        .uri(request.path.as_deref().unwrap())
        .header("host", request.host.as_deref().unwrap());
    if let Some(ip) = request.remote_ip {
        // What the client made up, then what the trusted hop wrote.
        let made_up = IpAddr::from([10, 9, 9, 9]);
        message = message.header("x-forwarded-for", format!("{made_up}, {ip}"));
    }
    for (name, values) in &request.headers {
        let values = match values {
            OneOrMany::One(value) => std::slice::from_ref(value),
            OneOrMany::Many(values) => values,
        };
        for value in values {
            message = message.header(name, value);
        }
    }
    message.body(Empty::new()).unwrap()
}
