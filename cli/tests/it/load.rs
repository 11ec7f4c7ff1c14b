//! Apps that call orders through web's sidecar without end, and remember what they know of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use picket_testkit::eventually;
use tokio::task::JoinHandle;

use crate::app::{App, Call, Failed, new_trace};
use crate::mesh::SOON;

/// What a client knows of a request.
pub(crate) struct Entry {
    pub(crate) trace: String,
    /// The status of an answer that was received whole.
    pub(crate) answered: Option<u16>,
}

/// Apps that call orders through web's sidecar without end.
pub(crate) struct Load {
    log: Arc<Mutex<Vec<Entry>>>,
    served: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(to: SocketAddr, random: &mut fastrand::Rng) -> Self {
        let mut load = Self {
            log: Arc::default(),
            served: Arc::default(),
            stop: Arc::default(),
            tasks: Vec::new(),
        };
        for number in 0..8 {
            let client = Client {
                to,
                http2: number % 4 == 3,
                keeps: number % 4 != 2,
                random: random.fork(),
                log: Arc::clone(&load.log),
                served: Arc::clone(&load.served),
                stop: Arc::clone(&load.stop),
            };
            load.tasks.push(tokio::spawn(client.run()));
        }
        load
    }

    /// Waits until as many more requests were answered with 200.
    pub(crate) async fn serves(&self, more: usize, what: &str) {
        let wanted = self.served.load(Ordering::Relaxed) + more;
        eventually(SOON, &format!("requests are served {what}"), || {
            (self.served.load(Ordering::Relaxed) >= wanted).then_some(())
        });
    }

    pub(crate) async fn stop(self) -> Vec<Entry> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

struct Client {
    to: SocketAddr,
    http2: bool,
    /// Whether it uses a connection again.
    keeps: bool,
    random: fastrand::Rng,
    log: Arc<Mutex<Vec<Entry>>>,
    served: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Client {
    async fn run(mut self) {
        let mut app = None;
        while !self.stop.load(Ordering::Relaxed) {
            let connected = match app.take() {
                Some(app) => Ok(app),
                None if self.http2 => App::http2(self.to).await,
                None => App::http1(self.to).await,
            };
            let Ok(mut connection) = connected else {
                // Nobody is there: that is no request.
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let call = self.next();
            let answered = match connection.send(&call).await {
                Ok((status, _)) => Some(status.as_u16()),
                // It was closed while it idled, as any server may do: that is no request either.
                Err(Failed::Unsent) => continue,
                Err(_) => None,
            };
            if answered == Some(200) {
                self.served.fetch_add(1, Ordering::Relaxed);
            }
            self.log.lock().unwrap().push(Entry { trace: call.trace, answered });
            app = answered.filter(|_| self.keeps).map(|_| connection);
            if answered.is_none_or(|status| status >= 500) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Some quick, some slow, some denied.
    fn next(&mut self) -> Call {
        let path = match self.random.u8(..6) {
            0 => "/orders/7".to_owned(),
            1 => "/secret/7".to_owned(),
            2 => "/bytes/100000".to_owned(),
            3 => format!("/stream/{}/10", self.random.u8(2..6)),
            _ => format!("/slow/{}", self.random.u8(5..60)),
        };
        let method = if self.random.bool() { Method::GET } else { Method::POST };
        Call { method, path, token: None, trace: new_trace(&mut self.random) }
    }
}
