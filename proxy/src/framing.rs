//! Watches the bytes of an HTTP/1 connection for requests whose end two parsers could see in
//! different places: the shape of every request-smuggling attack.
//!
//! hyper resolves such requests by the letter of RFC 9112 (a `Transfer-Encoding` overrides a
//! `Content-Length`, which is dropped), and since every request is written anew towards the service
//! nothing can be smuggled through. But whoever sends one is attacking or broken, so it deserves a
//! 400 and a record; and hyper does not tell. This guard reads along, follows where each request
//! ends, and notes the number of the first request that is ambiguous.
//!
//! Noted are: both lengths, repeated lengths, a transfer coding that is not exactly `chunked`, a
//! line that ends without CR, a fragment in the target, and a chunked body that cannot be followed.
//! Everything else that is malformed is refused by hyper itself.
//!
//! The guard also ends a connection whose client takes too long to send a head. (hyper's own timer for
//! that runs while a connection idles, too, and costs an allocation a request.)
//!
//! Specification: RFC 9112 sections 2.2, 3.2, 6.1, 6.3, 7.1 and 11.2.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What the guard found, shared with whoever serves the connection's requests.
#[derive(Debug)]
pub(crate) struct Findings {
    first_ambiguous: AtomicU64,
    opaque: AtomicBool,
}

impl Findings {
    fn new() -> Self {
        Self { first_ambiguous: AtomicU64::new(u64::MAX), opaque: AtomicBool::new(false) }
    }

    /// Whether the connection's `number`th request (from 1), or one before it, is ambiguous. Nothing
    /// after an ambiguous request can be believed to be a request.
    pub(crate) fn ambiguous(&self, number: u64) -> bool {
        number >= self.first_ambiguous.load(Ordering::Relaxed)
    }

    /// Stops the watch: the connection no longer speaks HTTP/1.
    pub(crate) fn opaque(&self) {
        self.opaque.store(true, Ordering::Relaxed);
    }
}

/// A stream whose incoming bytes are watched.
pub(crate) struct FramingGuard<S> {
    stream: S,
    watch: Watch,
    head_timeout: Duration,
    /// Runs while a head is incomplete.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> FramingGuard<S> {
    pub(crate) fn new(stream: S, head_timeout: Duration) -> (Self, Arc<Findings>) {
        let findings = Arc::new(Findings::new());
        let watch = Watch::new(Arc::clone(&findings));
        (Self { stream, watch, head_timeout, timer: None }, findings)
    }

    /// Whether the client has had its time to send a head.
    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.watch.awaits_head() {
            self.timer = None;
            return Poll::Pending;
        }
        let timeout = self.head_timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        timer.as_mut().poll(cx)
    }
}

/// How an HTTP/2 connection begins (RFC 9113 section 3.4): what follows is not HTTP/1.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// How much of a line is kept: enough for any header name and length that matters.
const LINE_KEPT: usize = 128;

enum State {
    /// In a request's head; leading empty lines are skipped.
    Head { first_line: bool, lengths: u32, codings: u32, length: u64, chunked: bool },
    /// In a body of which this much is left.
    Body(u64),
    /// In the line that says how long the next chunk is.
    ChunkSize,
    /// In a chunk of which this much is left, its line end included.
    Chunk(u64),
    /// In the trailer section.
    Trailers,
    /// Lost: hyper will refuse what comes, or it was noted already.
    Lost,
}

const HEAD: State =
    State::Head { first_line: true, lengths: 0, codings: 0, length: 0, chunked: false };

struct Watch {
    state: State,
    line: Vec<u8>,
    line_length: usize,
    number: u64,
    findings: Arc<Findings>,
}

impl Watch {
    fn new(findings: Arc<Findings>) -> Self {
        Self { state: HEAD, line: Vec::new(), line_length: 0, number: 1, findings }
    }

    /// Whether a head has begun and not ended, or the first one has not begun.
    fn awaits_head(&self) -> bool {
        let begun = self.line_length > 0 || self.number == 1;
        match self.state {
            State::Head { first_line, .. } => begun || !first_line,
            _ => false,
        }
    }

    fn see(&mut self, mut bytes: &[u8]) {
        if self.findings.opaque.load(Ordering::Relaxed) {
            return;
        }
        while !bytes.is_empty() {
            match &mut self.state {
                State::Lost => return,
                State::Body(left) | State::Chunk(left) => {
                    let seen = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= seen as u64;
                    bytes = bytes.get(seen..).unwrap_or_default();
                    match self.state {
                        State::Body(0) => self.next_request(),
                        State::Chunk(0) => self.state = State::ChunkSize,
                        _ => {}
                    }
                }
                State::Head { .. } | State::ChunkSize | State::Trailers => {
                    bytes = self.see_line(bytes);
                }
            }
        }
    }

    /// Takes bytes up to the end of the line, and the line itself if it ended; returns the rest.
    fn see_line<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some(end) = bytes.iter().position(|&b| b == b'\n') else {
            self.keep(bytes);
            return &[];
        };
        let (line, rest) = bytes.split_at(end);
        let rest = rest.get(1..).unwrap_or_default();
        // The usual line lies whole in one read and is looked at where it is.
        if self.line_length == 0 {
            self.line_ended(line, line.last() == Some(&b'\r'));
        } else {
            self.keep(line);
            let kept = std::mem::take(&mut self.line);
            // A line longer than what is kept has lost its end; httparse looks at that one.
            let whole = kept.len() == self.line_length;
            self.line_length = 0;
            self.line_ended(&kept, !whole || kept.last() == Some(&b'\r'));
            self.line = kept;
            self.line.clear();
        }
        rest
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.line_length += bytes.len();
        let room = LINE_KEPT - self.line.len().min(LINE_KEPT);
        self.line.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
    }

    fn line_ended(&mut self, line: &[u8], has_cr: bool) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !has_cr {
            return self.note();
        }
        match &mut self.state {
            State::Head { first_line, lengths, codings, length, chunked } => {
                if line.is_empty() && *first_line {
                    return; // RFC 9112 section 2.2: empty lines before a request
                }
                if *first_line {
                    *first_line = false;
                    if line == HTTP2_PREFACE {
                        self.state = State::Lost;
                    } else if line.contains(&b'#') {
                        // hyper cuts a fragment off; RFC 9112 section 3.2 has none.
                        self.note();
                    }
                } else if line.is_empty() {
                    self.head_ended();
                } else if let Some(value) = header(line, b"content-length") {
                    *lengths += 1;
                    match number(value, 10) {
                        Some(value) => *length = value,
                        None => self.state = State::Lost, // hyper refuses it
                    }
                } else if let Some(value) = header(line, b"transfer-encoding") {
                    *codings += 1;
                    *chunked = value.eq_ignore_ascii_case(b"chunked");
                }
            }
            State::ChunkSize => {
                let size = line.split(|&b| b == b';').next().unwrap_or_default();
                match number(size.trim_ascii_end(), 16) {
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Chunk(size.saturating_add(2)),
                    None => self.note(),
                }
            }
            State::Trailers if line.is_empty() => self.next_request(),
            _ => {}
        }
    }

    fn head_ended(&mut self) {
        let State::Head { lengths, codings, length, chunked, .. } = self.state else { return };
        match (lengths, codings) {
            (0, 0) => self.next_request(),
            (1, 0) if length == 0 => self.next_request(),
            (1, 0) => self.state = State::Body(length),
            (0, 1) if chunked => self.state = State::ChunkSize,
            _ => self.note(),
        }
    }

    fn next_request(&mut self) {
        self.number += 1;
        self.state = HEAD;
    }

    fn note(&mut self) {
        self.findings.first_ambiguous.fetch_min(self.number, Ordering::Relaxed);
        self.state = State::Lost;
    }
}

fn header<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    found.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let all_digits = digits.iter().all(|&b| char::from(b).is_digit(radix));
    let text = std::str::from_utf8(digits).ok()?;
    // from_str_radix takes a sign, which RFC 9112 does not.
    all_digits.then(|| u64::from_str_radix(text, radix).ok()).flatten()
}

impl<S: AsyncRead + Unpin> AsyncRead for FramingGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                this.watch.see(buffer.filled().get(before..).unwrap_or_default());
                Poll::Ready(Ok(()))
            }
            Poll::Pending if this.poll_timeout(cx).is_ready() => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the head of a request was not received in time",
            ))),
            other => other,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FramingGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the first ambiguous request, however the bytes are cut into reads.
    fn first_ambiguous(bytes: &[u8]) -> Option<u64> {
        let mut results = [1, 2, 3, 7, 64, bytes.len()].map(|size| {
            let findings = Arc::new(Findings::new());
            let mut watch = Watch::new(Arc::clone(&findings));
            for read in bytes.chunks(size) {
                watch.see(read);
            }
            findings.first_ambiguous.load(Ordering::Relaxed)
        });
        results.sort_unstable();
        assert_eq!(results.first(), results.last(), "the cut of the reads must not matter");
        (results[0] != u64::MAX).then_some(results[0])
    }

    const PLAIN: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
        5;x=y\r\nGET /\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";

    #[test]
    fn well_formed_requests_pass_in_any_order() {
        let sized = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /";
        let empty = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length:0\r\n\r\n";
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "c".repeat(9000));
        let all = [PLAIN, CHUNKED, sized, empty, "\r\n\r\n", &long, CHUNKED, PLAIN].concat();
        assert_eq!(first_ambiguous(all.as_bytes()), None);
    }

    #[test]
    fn each_smuggling_shape_is_noted_with_its_number() {
        for head in [
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 0\r\n",
            "Content-Length: 4\r\nContent-Length: 4\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "X: y\nZ: w\r\n",
        ] {
            let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n0\r\n\r\n");
            let all = [PLAIN, CHUNKED, &request, PLAIN].concat();
            assert_eq!(first_ambiguous(all.as_bytes()), Some(3), "{head:?}");
        }
        let fragment = "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(first_ambiguous(fragment.as_bytes()), Some(1));
        let bad_chunk = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nabcde\r\n";
        assert_eq!(first_ambiguous(bad_chunk.as_bytes()), Some(1));
    }

    #[test]
    fn what_a_body_says_is_not_a_head() {
        let body = "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let request = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        assert_eq!(first_ambiguous([&request, PLAIN].concat().as_bytes()), None);
    }

    #[test]
    fn http2_is_not_watched() {
        let http2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n\0\0\n";
        assert_eq!(first_ambiguous(http2.as_bytes()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_dawdles_is_cut_off_but_an_idle_one_is_not() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let limit = Duration::from_secs(10);
        let read = |parts: &'static [&'static str]| async move {
            let (mut client, server) = tokio::io::duplex(1024);
            let (mut guard, _) = FramingGuard::new(server, limit);
            let reading = async {
                let mut bytes = [0; 64];
                while guard.read(&mut bytes).await? > 0 {}
                io::Result::Ok(())
            };
            let writing = async {
                for part in parts {
                    client.write_all(part.as_bytes()).await.unwrap();
                    tokio::time::sleep(limit - Duration::from_secs(1)).await;
                }
                tokio::time::sleep(2 * limit).await;
                drop(client);
            };
            tokio::join!(reading, writing).0.map_err(|error| error.kind())
        };
        assert_eq!(read(&[]).await, Err(io::ErrorKind::TimedOut), "says nothing");
        assert_eq!(read(&["GET / HT", "TP"]).await, Err(io::ErrorKind::TimedOut));
        let dawdling = &[PLAIN, "GET / HTTP/1.1\r\n", "Host: a\r\n", "X: y\r\n"];
        assert_eq!(read(dawdling).await, Err(io::ErrorKind::TimedOut));
        assert_eq!(read(&[PLAIN]).await, Ok(()), "an idle connection may stay");
        assert_eq!(read(&["GET / HTTP/1.1\r\n", "\r\n"]).await, Ok(()));
    }

    #[test]
    fn after_an_upgrade_nothing_is_watched() {
        let findings = Arc::new(Findings::new());
        let mut watch = Watch::new(Arc::clone(&findings));
        watch.see(PLAIN.as_bytes());
        findings.opaque();
        watch.see(b"anything\n\n\n");
        assert!(!findings.ambiguous(2));
    }
}
