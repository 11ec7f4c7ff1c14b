//! Bodies on their way through: never collected, only counted, and ended when there is no more right to them.
//!
//! Back-pressure is hyper's own: a frame is asked for when the other side has room for it.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::audit::{Audit, Ending, Progress};
use crate::boundary::Messages;
use crate::recheck::{Lost, Open, Upload};
use crate::respond;
use crate::upstream::Lease;

/// Why a body has no next frame.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection that it comes by is at fault.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// There is no more right to it. HTTP/2 finds the code for its RST_STREAM in the source.
    #[error("there is no more right to it")]
    Lost(#[source] h2::Error),
}

impl BodyError {
    fn lost() -> Self {
        Self::Lost(h2::Error::from(Reason::CANCEL))
    }
}

/// A request's body, counted as it is forwarded.
pub(crate) struct RequestBody {
    inner: Incoming,
    progress: Rc<Progress>,
    upload: Upload,
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming, progress: Rc<Progress>, upload: Upload) -> Self {
        Self { inner, progress, upload }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.upload.poll_upload(cx).is_some() {
            return Poll::Ready(Some(Err(BodyError::lost())));
        }
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
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)))
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
    /// The upstream's, which lies with its stream.
    Forwarded(Open),
}

impl ResponseBody {
    pub(crate) fn empty() -> Self {
        Self::Local(Full::default())
    }

    /// The upstream's, which is there as a whole.
    pub(crate) fn whole(body: Bytes) -> Self {
        Self::Local(Full::new(body))
    }

    pub(crate) fn forwarded(body: Forwarded, open: Open) -> Self {
        *open.body().borrow_mut() = Some(body);
        Self::Forwarded(open)
    }
}

/// What of an upstream's body is there when its head is.
pub(crate) enum Coming {
    Whole(Bytes),
    More(Arriving),
}

/// A body of which the first frame may have been taken already.
pub(crate) struct Arriving {
    first: Option<Result<Frame<Bytes>, hyper::Error>>,
    rest: Incoming,
}

impl Coming {
    /// Looks once, and does not wait.
    pub(crate) async fn of(mut body: Incoming) -> Self {
        if body.is_end_stream() {
            return Self::Whole(Bytes::new());
        }
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
        match first {
            Poll::Ready(None) => Self::Whole(Bytes::new()),
            Poll::Ready(Some(Ok(frame))) if body.is_end_stream() && frame.is_data() => {
                Self::Whole(frame.into_data().unwrap_or_default())
            }
            Poll::Ready(first) => Self::More(Arriving { first, rest: body }),
            Poll::Pending => Self::More(Arriving { first: None, rest: body }),
        }
    }
}

impl Arriving {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.rest.size_hint();
        if let Some(data) = self.first.as_ref().and_then(|first| first.as_ref().ok()?.data_ref()) {
            let first = data.len() as u64;
            if let Some(upper) = hint.upper() {
                hint.set_upper(upper.saturating_add(first));
            }
            hint.set_lower(hint.lower().saturating_add(first));
        }
        hint
    }
}

/// An upstream's body, whose end is the end of the record and frees the upstream's connection.
pub(crate) struct Forwarded {
    inner: Inner,
    audit: Audit,
    lease: Option<Lease>,
    /// Those of a gRPC response, which can end with a status at any time.
    messages: Option<Messages>,
}

enum Inner {
    Coming(Arriving),
    /// There is no more right to it; perhaps there is a last word.
    Lost(Option<HeaderMap>),
}

impl Forwarded {
    pub(crate) fn new(
        inner: Arriving,
        headers: &HeaderMap,
        audit: Audit,
        lease: Option<Lease>,
    ) -> Self {
        let is_grpc = respond::is_grpc(headers) && !headers.contains_key(CONTENT_LENGTH);
        let messages = is_grpc.then(Messages::default);
        Self { inner: Inner::Coming(inner), audit, lease, messages }
    }

    fn finish(&mut self) {
        self.audit.end(Ending::Completed);
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    /// Breaks off what comes from the upstream, whether somebody asks for it or not.
    pub(crate) fn lose(&mut self, lost: &Lost) {
        let whole = self.messages.as_ref().is_some_and(Messages::can_follow);
        let status = whole.then(|| grpc_status(lost, &self.audit));
        self.inner = Inner::Lost(status);
        self.lease = None;
        self.audit.lost(lost);
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let inner = match &mut self.inner {
            Inner::Coming(inner) => inner,
            Inner::Lost(last) => {
                let last = last.take().map(Frame::trailers).ok_or_else(BodyError::lost);
                return Poll::Ready(Some(last));
            }
        };
        let frame = ready!(inner.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                // hyper asks for nothing more once the body says that this was the end.
                let is_last = frame.is_trailers() || inner.is_end_stream();
                if let Some(data) = frame.data_ref() {
                    self.audit.received(data.len());
                    if let Some(messages) = &mut self.messages {
                        messages.see(data);
                    }
                }
                if is_last {
                    self.finish();
                }
            }
            Some(Err(_)) => self.audit.end(Ending::UpstreamAborted),
            None => self.finish(),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)))
    }
}

/// gRPC over HTTP/2, "Responses": the trailers tell what came of the call.
fn grpc_status(lost: &Lost, audit: &Audit) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(respond::grpc_status(lost.status)));
    let message = format!("{} (decision {})", lost.words(), audit.context().decision_id());
    if let Ok(message) = HeaderValue::from_str(&message) {
        trailers.insert("grpc-message", message);
    }
    trailers
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let open = match &mut *self {
            Self::Local(full) => {
                return Pin::new(full).poll_frame(cx).map_err(|never| match never {});
            }
            Self::Forwarded(open) => open,
        };
        let mut body = open.body().borrow_mut();
        let Some(body) = &mut *body else { return Poll::Ready(None) };
        let frame = body.poll_frame(cx);
        if frame.is_pending() {
            let _woken_if_lost = open.poll_lost(cx);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Local(full) => full.is_end_stream(),
            Self::Forwarded(open) => open.body().borrow().as_ref().is_none_or(
                |body| matches!(&body.inner, Inner::Coming(inner) if inner.is_end_stream()),
            ),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Local(full) => full.size_hint(),
            Self::Forwarded(open) => match open.body().borrow().as_ref().map(|body| &body.inner) {
                Some(Inner::Coming(inner)) => inner.size_hint(),
                _ => SizeHint::default(),
            },
        }
    }
}
