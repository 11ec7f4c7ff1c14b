//! What happens once, and the one task of the same thread that waits for it.

use std::cell::{Cell, OnceCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// The task that is to be woken.
#[derive(Default)]
pub(crate) struct Waiter(Cell<Option<Waker>>);

impl Waiter {
    /// The task that runs now waits; one that did before no longer does.
    pub(crate) fn remember(&self, cx: &Context<'_>) {
        let known = self.0.take().filter(|known| known.will_wake(cx.waker()));
        self.0.set(Some(known.unwrap_or_else(|| cx.waker().clone())));
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }
}

/// Set at most once.
pub(crate) struct Flag<T> {
    value: OnceCell<T>,
    waiter: Waiter,
}

impl<T> Default for Flag<T> {
    fn default() -> Self {
        Self { value: OnceCell::new(), waiter: Waiter::default() }
    }
}

impl<T> Flag<T> {
    /// Sets it; the first value counts.
    pub(crate) fn set(&self, value: T) {
        if self.value.set(value).is_ok() {
            self.waiter.wake();
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.value.get()
    }
}

impl<T: Clone> Flag<T> {
    /// Whether it is set; if not, the task is woken when it is.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<T> {
        match self.get() {
            Some(value) => Poll::Ready(value.clone()),
            None => {
                self.waiter.remember(cx);
                Poll::Pending
            }
        }
    }

    /// Waits until it is set.
    pub(crate) async fn wait(&self) -> T {
        poll_fn(|cx| self.poll(cx)).await
    }
}
