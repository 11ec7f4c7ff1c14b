//! One request, tunnel or raw connection from its decision to its end.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use super::{Lost, Right, Scope, Seen};
use crate::body::Forwarded;
use crate::flag::{Flag, Waiter};
use crate::upstream::Server;

/// How long a client may take to be told that there is no more right to a stream.
const LINGER: Duration = Duration::from_millis(200);

/// What is open, and the right that it has to be.
pub(crate) struct Stream {
    right: Right,
    /// Number of the change that it was decided under last.
    seen: Cell<u64>,
    /// Number of the policy among those.
    policy: Cell<u64>,
    /// When a certificate or a token comes to its end.
    until: Cell<Option<SystemTime>>,
    lost: Flag<Rc<Lost>>,
    lost_at: Cell<Option<Instant>>,
    /// Whoever passes the request's body on.
    upload: Waiter,
    /// The response, once its head has been passed on.
    body: RefCell<Option<Forwarded>>,
    /// Its place in the list.
    key: Cell<usize>,
    /// How many of its two directions are open.
    directions: Cell<u8>,
}

impl Stream {
    pub(super) fn right(&self) -> &Right {
        &self.right
    }

    /// Whether something has changed since it was decided on.
    pub(super) fn is_older_than(&self, seen: Seen) -> bool {
        self.seen.get() < self.right.number(seen)
    }

    /// Whether a certificate or a token has come to its end.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        self.until.get().is_some_and(|until| until <= now) && self.lost.get().is_none()
    }

    /// It is being decided on again.
    pub(super) fn decides(&self, seen: Seen) -> Scope {
        self.seen.set(self.right.number(seen));
        self.until.set(None);
        match self.policy.replace(seen.policy) == seen.policy {
            true => Scope::Credentials,
            false => Scope::Policy,
        }
    }

    /// Who a call goes to: it ends with that certificate, too.
    pub(crate) fn goes_to(&self, server: Option<&Rc<Server>>) {
        if let (Right::Call { call, .. }, Some(server)) = (&self.right, server) {
            *call.server.borrow_mut() = Some(Rc::clone(server));
            self.until.set(Some(server.leaf.not_after));
        }
    }

    /// It may go on, until then; unless something has changed since that was decided.
    pub(super) fn renew(&self, seen: Seen, until: Option<SystemTime>) {
        if self.seen.get() == self.right.number(seen) {
            self.until.set(until);
        }
    }

    /// Takes the right away: what was on its way through goes no further, and the record is closed. Returns whether
    /// there was something to take.
    pub(super) fn lose(&self, lost: Lost) -> bool {
        if self.directions.get() == 0 || self.lost.get().is_some() {
            return false;
        }
        let lost = Rc::new(lost);
        self.lost_at.set(Some(Instant::now()));
        self.lost.set(Rc::clone(&lost));
        let body = self.body.borrow_mut().as_mut().map(|body| body.lose(&lost));
        if body.is_some() {
            self.right.cut();
        }
        self.upload.wake();
        true
    }

    /// An HTTP/2 client that gives no room for more cannot be told either: after a moment its connection goes.
    pub(super) fn stop_lingering(&self) {
        if let (Some(since), Some(lost)) = (self.lost_at.get(), self.lost.get())
            && since.elapsed() >= LINGER
        {
            self.right.close_connection(lost);
        }
    }

    /// The right, if it has been lost; if not, the task that passes the request's body on is woken when it is.
    pub(crate) fn poll_upload(&self, cx: &Context<'_>) -> Option<&Lost> {
        if self.lost.get().is_none() {
            self.upload.remember(cx);
        }
        self.lost.get().map(|lost| &**lost)
    }

    /// The response's body. It stays here, so that it can be ended even while nobody asks for it.
    pub(crate) fn body(&self) -> &RefCell<Option<Forwarded>> {
        &self.body
    }

    /// Whether the right is lost; if not, the task that hands the response over is woken when it is.
    pub(crate) fn poll_lost(&self, cx: &Context<'_>) -> Poll<Rc<Lost>> {
        self.lost.poll(cx)
    }

    /// Whether there is no more right to it.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    /// Does something for as long as there is a right to it.
    pub(crate) async fn unless_lost<F: Future>(&self, work: F) -> Result<F::Output, Rc<Lost>> {
        let mut work = pin!(work);
        poll_fn(|cx| match self.lost.poll(cx) {
            Poll::Ready(lost) => Poll::Ready(Err(lost)),
            Poll::Pending => work.as_mut().poll(cx).map(Ok),
        })
        .await
    }
}

/// A stream on its worker's list. Dropping it ends the response, and takes it off the list unless the request is still
/// on its way.
pub(crate) struct Open(Rc<Stream>);

/// The request's way to the service, which may be longer than that of the response.
pub(crate) struct Upload(Rc<Stream>);

impl Stream {
    fn close_direction(&self) {
        let left = self.directions.get().saturating_sub(1);
        self.directions.set(left);
        if left == 0 {
            self.right.worker().open.remove(self.key.get());
        }
    }
}

impl Open {
    /// What was decided under `seen`, and may go on until then.
    pub(crate) fn new(right: Right, seen: Seen, until: Option<SystemTime>) -> Self {
        let stream = Rc::new(Stream {
            seen: Cell::new(right.number(seen)),
            policy: Cell::new(seen.policy),
            right,
            until: Cell::new(until),
            lost: Flag::default(),
            lost_at: Cell::new(None),
            upload: Waiter::default(),
            body: RefCell::default(),
            key: Cell::default(),
            directions: Cell::new(1),
        });
        stream.key.set(stream.right.worker().open.add(Rc::clone(&stream)));
        Self(stream)
    }

    /// For the request's body.
    pub(crate) fn upload(&self) -> Upload {
        self.0.directions.set(2);
        Upload(Rc::clone(&self.0))
    }
}

impl Deref for Open {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.body.take();
        self.0.close_direction();
    }
}

impl Deref for Upload {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.0
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.close_direction();
    }
}
