//! Asks the control plane: through its unix socket, or over mTLS with an operator's certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use picket_certs::files::{read_private, read_public};
use picket_certs::{Expect, PeerVerifier, SpiffeId, Svid, TrustBundle, tls};
use picket_control::operator::Problem;
use rustls_pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::args::ControlArguments;
use crate::exit::{Failure, words};

/// Time for one question.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How often a control plane that is away is asked again.
const AWAY: Duration = Duration::from_secs(1);

/// The control plane as the command line names it.
pub(crate) struct Client {
    address: Address,
}

enum Address {
    Unix(PathBuf),
    Https { authority: String, identity: Svid, bundle: TrustBundle },
}

/// Why an answer is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("the control plane at {address} cannot be reached: {cause}; is it running?")]
    Unreachable { address: String, cause: String },
    #[error("{}", .0.detail)]
    Refused(Problem),
    #[error("the control plane's answer is not understood: {0}")]
    Unintelligible(String),
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        match &error {
            // What was asked for is wrong, as opposed to what is there.
            AskError::Refused(problem) if matches!(problem.status, 400 | 422) => {
                Self::Usage(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl Client {
    pub(crate) fn new(arguments: &ControlArguments) -> Result<Self, Failure> {
        Ok(Self { address: address(arguments)? })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AskError> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// As [`Client::get`], for whoever follows something: a control plane that is away is waited for, however long. Said once on
    /// standard error.
    pub(crate) async fn get_or_wait<T: DeserializeOwned>(&self, path: &str) -> Result<T, AskError> {
        let mut is_away = false;
        loop {
            match self.get(path).await {
                Err(error @ AskError::Unreachable { .. }) => {
                    if !std::mem::replace(&mut is_away, true) {
                        eprintln!("{error} Waiting for it; nothing is missed.");
                    }
                    tokio::time::sleep(AWAY).await;
                }
                answer => return answer,
            }
        }
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, AskError> {
        self.send_body(Method::POST, path, body).await
    }

    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, AskError> {
        self.send_body(Method::PUT, path, body).await
    }

    /// Whether it runs on this machine.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.address, Address::Unix(_))
    }

    async fn send_body<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, AskError> {
        let body = serde_json::to_vec(body);
        let body = body.map_err(|error| AskError::Unintelligible(error.to_string()))?;
        self.ask(method, path, body.into()).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, AskError> {
        self.ask(Method::DELETE, path, Bytes::new()).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, AskError> {
        let (status, body) = tokio::time::timeout(TIMEOUT, self.exchange(method, path, body))
            .await
            .unwrap_or_else(|_| Err(self.unreachable(&format!("no answer in {TIMEOUT:?}"))))?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| AskError::Unintelligible(error.to_string()));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(AskError::Refused(problem)),
            Err(_) => Err(AskError::Unintelligible(format!("status {status}"))),
        }
    }

    /// Asks for lines of text, and reads them as they come.
    pub(crate) async fn lines(&self, path: &str) -> Result<Lines, AskError> {
        let opened =
            tokio::time::timeout(TIMEOUT, self.open(Method::GET, path, Bytes::new())).await;
        let response = opened
            .unwrap_or_else(|_| Err(self.unreachable(&format!("no answer in {TIMEOUT:?}"))))?;
        let (status, address) = (response.status(), self.address.to_string());
        let mut lines =
            Lines { body: response.into_body(), address, rest: Vec::new(), at: 0, is_over: false };
        if status.is_success() {
            return Ok(lines);
        }
        let mut text = String::new();
        while let Some(line) = lines.next().await? {
            text.push_str(&line);
        }
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => Err(AskError::Refused(problem)),
            Err(_) => Err(AskError::Unintelligible(format!("status {status}"))),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), AskError> {
        let response = self.open(method, path, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await;
        Ok((status, body.map_err(|error| self.unreachable(&words(&error)))?.to_bytes()))
    }

    async fn open(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, AskError> {
        match &self.address {
            Address::Unix(socket) => {
                let stream = UnixStream::connect(socket).await;
                let stream = stream.map_err(|error| self.unreachable(&error.to_string()))?;
                self.send(stream, method, path, body).await
            }
            Address::Https { authority, identity, bundle } => {
                let failed =
                    |error: &(dyn std::error::Error + 'static)| self.unreachable(&words(error));
                let control = SpiffeId::control_plane(bundle.trust_domain());
                let control = control.map_err(|error| failed(&error))?;
                let verifier = PeerVerifier::new(bundle.clone(), Expect::Workload(control));
                let config = tls::client_config(Some(identity), verifier, &[b"http/1.1"]);
                let config = config.map_err(|error| failed(&error))?;
                let stream = TcpStream::connect(authority).await.map_err(|e| failed(&e))?;
                // The name plays no part in the verification; it must only be one.
                let name = ServerName::try_from("control.picket-system");
                let name = name.map_err(|error| failed(&error))?;
                let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
                self.send(stream.map_err(|error| failed(&error))?, method, path, body).await
            }
        }
    }

    async fn send<S>(
        &self,
        stream: S,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, AskError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let failed = |error: &(dyn std::error::Error + 'static)| self.unreachable(&words(error));
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "control.picket-system")
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| failed(&error))?;
        sender.send_request(request).await.map_err(|error| failed(&error))
    }

    fn unreachable(&self, cause: &str) -> AskError {
        AskError::Unreachable { address: self.address.to_string(), cause: cause.to_owned() }
    }
}

/// Lines of an answer.
pub(crate) struct Lines {
    body: Incoming,
    address: String,
    rest: Vec<u8>,
    /// Where the next line begins in `rest`.
    at: usize,
    is_over: bool,
}

impl Lines {
    /// The next line, without its end; none after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, AskError> {
        loop {
            let left = self.rest.get(self.at..).unwrap_or_default();
            if let Some(end) = left.iter().position(|byte| *byte == b'\n') {
                let line =
                    String::from_utf8_lossy(left.get(..end).unwrap_or_default()).into_owned();
                self.at += end + 1;
                return Ok(Some(line));
            }
            if self.is_over {
                let line = String::from_utf8_lossy(left).into_owned();
                self.at = self.rest.len();
                return Ok(Some(line).filter(|line| !line.is_empty()));
            }
            self.rest.drain(..self.at);
            self.at = 0;
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    let (address, cause) = (self.address.clone(), words(&error));
                    return Err(AskError::Unreachable { address, cause });
                }
                None => self.is_over = true,
            }
        }
    }
}

impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Https { authority, .. } => write!(f, "https://{authority}"),
        }
    }
}

fn address(arguments: &ControlArguments) -> Result<Address, Failure> {
    let text = &arguments.control;
    if let Some(path) = text.strip_prefix("unix:") {
        // unix:///path and unix:/path are the same.
        let path = path.strip_prefix("//").unwrap_or(path);
        return Ok(Address::Unix(path.into()));
    }
    let Some(authority) = text.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'))
    else {
        return Err(Failure::Usage(format!(
            "--control {text:?} is not an address: use unix:PATH or https://HOST:PORT"
        )));
    };
    let Some(directory) = &arguments.operator else {
        return Err(Failure::Usage(
            "over https an operator certificate is needed: pass --operator DIR (or PICKET_OPERATOR), \
             the directory that `picket operator create --out DIR` wrote"
                .to_owned(),
        ));
    };
    let (identity, bundle) = operator(directory)?;
    Ok(Address::Https { authority: authority.to_owned(), identity, bundle })
}

/// Reads what `picket operator create --out` wrote.
fn operator(directory: &Path) -> Result<(Svid, TrustBundle), Failure> {
    let usage = |error: &(dyn std::error::Error + 'static)| {
        Failure::Usage(format!("--operator {}: {}", directory.display(), words(error)))
    };
    let key = read_private(&directory.join("key.pem")).map_err(|error| usage(&error))?;
    let chain = read_public(&directory.join("certificate.pem")).map_err(|error| usage(&error))?;
    let identity = Svid::from_pem(&chain, &key).map_err(|error| usage(&error))?;
    let bundle = read_public(&directory.join("bundle.pem")).map_err(|error| usage(&error))?;
    let trust_domain = identity.leaf().identity.trust_domain().clone();
    let bundle = TrustBundle::from_pem(trust_domain, &bundle).map_err(|error| usage(&error))?;
    Ok((identity, bundle))
}
