//! The service behind the proxy: `/bytes/<n>` answers so many bytes, `/bytes/open` begins an answer that
//! never ends; bodies are read and dropped.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
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

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn answer(request: Request<Incoming>) -> Result<Answer, Infallible> {
    let what = request.uri().path().strip_prefix("/bytes/").unwrap_or_default().to_owned();
    let mut body = request.into_body();
    while let Some(Ok(_frame)) = body.frame().await {}
    if what == "open" {
        let first = Ok(Frame::data(Bytes::from_static(b"open")));
        let endless = futures_util::stream::once(async { first });
        let endless = futures_util::StreamExt::chain(endless, futures_util::stream::pending());
        return Ok(Response::new(BodyExt::boxed(StreamBody::new(endless))));
    }
    let size: usize = what.parse().unwrap_or_default();
    let body = Full::new(Bytes::from_static(ZEROS.get(..size).unwrap_or_default()));
    Ok(Response::new(body.boxed()))
}
