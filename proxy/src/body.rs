//! Bodies on their way through: never collected, only counted.
//!
//! Back-pressure is hyper's own: a frame is asked for when the other side has room for it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::audit::{Audit, Ending, Progress};
use crate::upstream::Lease;

/// A request's body, counted as it is forwarded.
pub(crate) struct RequestBody {
    inner: Incoming,
    progress: Rc<Progress>,
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming, progress: Rc<Progress>) -> Self {
        Self { inner, progress }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let progress = &self.progress;
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                progress.bytes.set(progress.bytes.get() + bytes);
            }
            Some(Err(_)) => progress.broken.set(true),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response's body.
pub(crate) enum ResponseBody {
    /// The proxy's own words, or none.
    Local(Full<Bytes>),
    /// The upstream's.
    Forwarded(Box<Forwarded>),
}

impl ResponseBody {
    pub(crate) fn empty() -> Self {
        Self::Local(Full::default())
    }
}

/// An upstream's body, whose end is the end of the record and frees the upstream's connection.
pub(crate) struct Forwarded {
    inner: Incoming,
    audit: Audit,
    lease: Option<Lease>,
}

impl Forwarded {
    pub(crate) fn new(inner: Incoming, audit: Audit, lease: Option<Lease>) -> Self {
        Self { inner, audit, lease }
    }

    fn finish(&mut self) {
        self.audit.end(Ending::Completed);
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let forwarded = match &mut *self {
            Self::Local(full) => {
                return Pin::new(full).poll_frame(cx).map_err(|never| match never {});
            }
            Self::Forwarded(forwarded) => forwarded,
        };
        let frame = ready!(Pin::new(&mut forwarded.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    forwarded.audit.received(data.len());
                }
                // hyper asks for nothing more once the body says that this was the end.
                if frame.is_trailers() || forwarded.inner.is_end_stream() {
                    forwarded.finish();
                }
            }
            Some(Err(_)) => forwarded.audit.end(Ending::UpstreamAborted),
            None => forwarded.finish(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Local(full) => full.is_end_stream(),
            Self::Forwarded(forwarded) => forwarded.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Local(full) => full.size_hint(),
            Self::Forwarded(forwarded) => forwarded.inner.size_hint(),
        }
    }
}
