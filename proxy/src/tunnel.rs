//! Bytes between two ends, as they are, for as long as there is a right to it.
//!
//! What was passed on is counted, and of a WebSocket the frames are followed, so that both ends can be told with a Close
//! frame when the right is lost. Between frames that is not possible, and of other protocols nothing is known: those
//! connections are broken off, without TLS's own farewell, so that nobody takes what he has for the whole.
//!
//! Specification: RFC 6455 (WebSocket), RFC 8446 section 6.1 (`close_notify`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderMap;
use http::header::UPGRADE;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::audit::{Audit, Ending};
use crate::boundary::{self, Frames};
use crate::recheck::{Lost, Stream};

/// How long an end may take to be told, and how long it is listened to for its own farewell.
const FAREWELL: Duration = Duration::from_millis(250);

/// What the bytes mean, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    WebSocket,
    Unknown,
}

impl Protocol {
    /// What a response that switches protocols switches to.
    pub(crate) fn of(response: &HeaderMap) -> Self {
        let is_websocket = response
            .get(UPGRADE)
            .is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
        if is_websocket { Self::WebSocket } else { Self::Unknown }
    }
}

/// Passes bytes both ways until both sides are done or there is no more right to it, and records how that ended.
pub(crate) async fn run(
    downstream: impl AsyncRead + AsyncWrite + Unpin,
    upstream: impl AsyncRead + AsyncWrite + Unpin,
    audit: &mut Audit,
    open: &Stream,
    protocol: Protocol,
) {
    let (mut downstream, mut upstream) =
        (Watched::new(downstream, protocol), Watched::new(upstream, protocol));
    let copied = tokio::io::copy_bidirectional(&mut downstream, &mut upstream);
    let copied = open.unless_lost(copied).await;
    audit.request_body().bytes.set(upstream.written);
    audit.received(usize::try_from(downstream.written).unwrap_or(usize::MAX));
    match copied {
        Ok(Ok(_)) => audit.end(Ending::Completed),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a tunnel broke");
            audit.end(Ending::ClientAborted);
        }
        Err(lost) => {
            audit.lost(&lost);
            let farewell = async {
                tokio::join!(
                    downstream.say_farewell(&lost, false),
                    upstream.say_farewell(&lost, true)
                )
            };
            let _told = tokio::time::timeout(FAREWELL, farewell).await;
        }
    }
}

/// One end of a tunnel.
struct Watched<S> {
    inner: S,
    /// Bytes that it got.
    written: u64,
    /// The frames that it got.
    frames: Option<Frames>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Watched<S> {
    fn new(inner: S, protocol: Protocol) -> Self {
        let frames = (protocol == Protocol::WebSocket).then(Frames::default);
        Self { inner, written: 0, frames }
    }

    /// Tells this end, if its protocol has words for it; then waits for it to close, so that it can read them.
    async fn say_farewell(&mut self, lost: &Lost, masked: bool) -> io::Result<()> {
        let Some(frames) = &self.frames else { return Ok(()) };
        if frames.can_follow() {
            let frame = boundary::close_frame(lost.words(), masked);
            self.inner.write_all(&frame).await?;
        }
        self.inner.shutdown().await?;
        let mut unread = [0; 1024];
        while self.inner.read(&mut unread).await? > 0 {}
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            self.written += *count as u64;
            if let Some(frames) = &mut self.frames {
                frames.see(bytes.get(..*count).unwrap_or_default());
            }
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
