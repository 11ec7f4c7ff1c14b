//! A service whose answers are full of secrets, and that breaks in several ways.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::canaries::Canaries;

pub(super) struct Upstream {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

/// The canaries of its answers.
struct Secrets {
    cookie: String,
    header: String,
    location: String,
    body: String,
    trailer: String,
    line: String,
}

impl Upstream {
    pub(super) async fn start(canaries: &mut Canaries) -> Self {
        let mut plant = |position: &str| canaries.plant(format!("answer: {position}"));
        let secrets = Arc::new(Secrets {
            cookie: plant("set-cookie"),
            header: plant("header"),
            location: plant("location"),
            body: plant("body"),
            trailer: plant("trailer"),
            line: plant("status line"),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
        let log = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&secrets), Arc::clone(&log)));
            }
        });
        Self { address, seen, task }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that was sent to it.
    pub(super) fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request on a connection.
async fn serve(mut stream: TcpStream, secrets: Arc<Secrets>, seen: Arc<Mutex<Vec<u8>>>) {
    let (mut request, mut more) = (Vec::new(), vec![0; 65_536]);
    while !is_whole(&String::from_utf8_lossy(&request)) {
        match stream.read(&mut more).await {
            Ok(read) if read > 0 => request.extend(&more[..read]),
            _ => return,
        }
    }
    seen.lock().unwrap().extend(&request);
    let text = String::from_utf8_lossy(&request).into_owned();
    let path = text.split(['?', ' ']).nth(1).unwrap_or_default().to_owned();
    let Secrets { cookie, header, location, body, trailer, line } = &*secrets;
    let headers = format!(
        "set-cookie: sid={cookie}; Path=/\r\nx-secret: {header}\r\n\
         location: https://shop.example/?t={location}\r\nconnection: close\r\n"
    );
    let answer = match path.as_str() {
        _ if text.to_ascii_lowercase().contains("upgrade: echo") => {
            let head =
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            let (mut reader, mut writer) = stream.split();
            let _ended = tokio::io::copy(&mut reader, &mut writer).await;
            return;
        }
        "/status/503" => {
            format!("HTTP/1.1 503 {line}\r\n{headers}content-length: 28\r\n\r\n{body}")
        }
        "/bytes/garbage" => format!("HTTP/1.1 {line}\r\ncookie {header}\r\n\r\n"),
        "/slow/broken" => format!("HTTP/1.1 200 OK\r\n{headers}content-length: 100\r\n\r\n{body}"),
        _ => format!(
            "HTTP/1.1 200 OK\r\n{headers}transfer-encoding: chunked\r\ntrailer: x-checksum\r\n\r\n\
             1c\r\n{body}\r\n0\r\nx-checksum: {trailer}\r\n\r\n"
        ),
    };
    let _gone = stream.write_all(answer.as_bytes()).await;
    let _gone = stream.shutdown().await;
}

fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    match length.and_then(|length| length.trim().parse::<usize>().ok()) {
        Some(length) => body.len() >= length,
        None => !head.contains("transfer-encoding: chunked") || body.ends_with("\r\n\r\n"),
    }
}
