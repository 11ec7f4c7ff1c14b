//! The service behind the proxy: `/bytes/<n>` answers so many bytes; bodies are read and dropped.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

pub(crate) async fn start() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = socket.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                let served = builder.serve_connection(TokioIo::new(stream), service_fn(answer));
                let _ended = served.await;
            });
        }
    });
    address
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let size = request.uri().path().strip_prefix("/bytes/").and_then(|n| n.parse().ok());
    let size: usize = size.unwrap_or_default();
    let mut body = request.into_body();
    while let Some(Ok(_frame)) = body.frame().await {}
    Ok(Response::new(Full::new(Bytes::from_static(ZEROS.get(..size).unwrap_or_default()))))
}
