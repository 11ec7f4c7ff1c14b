//! What callers see of an issuer whose key endpoint is slow, gone, huge, wrong or rotating: a real one,
//! over HTTP. The table of these stands in `docs/policy.md`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::StatusCode;
use picket_testkit::Issuer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::jwt::{call, now};
use crate::support::{Options, Sidecar};

/// Well below the time-out of the rules.
const AT_ONCE: Duration = Duration::from_secs(2);

/// How an endpoint answers.
#[derive(Clone)]
enum Answer {
    Body(String),
    /// So late.
    After(Duration, String),
    /// These bytes, whatever they are.
    Raw(String),
    /// More than anybody should read.
    Endless,
    /// It closes at once.
    Nothing,
}

/// A key endpoint whose answers can be changed.
struct Endpoint {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
}

impl Endpoint {
    async fn start(answer: Answer) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let (answers, count) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let answer = answers.lock().unwrap().clone();
                tokio::spawn(serve(stream, answer));
            }
        });
        Self { address, answer, asked }
    }

    fn now_answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, answer: Answer) {
    let mut head = [0; 2048];
    let _request = stream.read(&mut head).await;
    let whole = |body: &str| {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
    };
    let text = match answer {
        Answer::Body(body) => whole(&body),
        Answer::After(delay, body) => {
            tokio::time::sleep(delay).await;
            whole(&body)
        }
        Answer::Raw(text) => text,
        Answer::Nothing => return,
        Answer::Endless => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"keys\":[";
            let mut sent = stream.write_all(head.as_bytes()).await;
            while sent.is_ok() {
                sent = stream.write_all(&[b' '; 16 << 10]).await;
            }
            return;
        }
    };
    let _gone = stream.write_all(text.as_bytes()).await;
}

/// Rules for two issuers: the one that is tried, and another that is in order.
fn policies(issuer: &Issuer, endpoint: &Endpoint, other: &Issuer) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
         metadata: {{name: tokens, namespace: shop}}\nspec:\n  jwtRules:\n  \
         - {{issuer: {}, timeout: 3s, jwksUri: 'http://{}/keys'}}\n  \
         - {{issuer: {}, jwks: '{}'}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: orders, namespace: shop}}\nspec:\n  rules:\n  \
         - from: [{{source: {{requestPrincipals: ['*']}}}}]\n",
        issuer.name(),
        endpoint.address,
        other.name(),
        other.jwks()
    )
}

/// A proxy, an endpoint that answers so, and the two issuers.
struct Tried {
    sidecar: Sidecar,
    endpoint: Endpoint,
    issuer: Issuer,
    other: Issuer,
}

impl Tried {
    async fn with(answer: impl FnOnce(&Issuer) -> Answer, config: &str) -> Self {
        let issuer = Issuer::new("https://issuer.example", "k1");
        let other = Issuer::new("https://other.example", "k1");
        let endpoint = Endpoint::start(answer(&issuer)).await;
        let policies = policies(&issuer, &endpoint, &other);
        let options = Options { policies: &policies, config, workers: 1, ..Options::default() };
        let sidecar = Sidecar::with(options).await;
        Self { sidecar, endpoint, issuer, other }
    }

    async fn send(&self, issuer: &Issuer) -> (u16, String) {
        let token = issuer.sign(json!({"sub": "ana", "exp": now() + 600}));
        let (status, body) = call(&self.sidecar, "/a", &[&token]).await;
        (status.as_u16(), body["code"].as_str().unwrap_or_default().to_owned())
    }

    /// What a caller with the tried issuer's token sees; the other's is let in all the while.
    async fn seen(&self) -> (u16, String) {
        let seen = self.send(&self.issuer).await;
        let started = Instant::now();
        assert_eq!(self.send(&self.other).await.0, 200, "one issuer never blocks another");
        assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
        seen
    }

    /// Waits until a caller sees this.
    async fn until(&self, status: u16, code: &str) {
        let started = Instant::now();
        loop {
            let seen = self.send(&self.issuer).await;
            if seen == (status, code.to_owned()) {
                return;
            }
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "still {seen:?}, not {status} {code}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn keys(issuer: &Issuer) -> Answer {
    Answer::Body(issuer.jwks().to_string())
}

fn unavailable() -> (u16, String) {
    (401, "jwt_keys_unavailable".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_keys_of_a_slow_issuer_are_waited_for() {
    let late =
        |issuer: &Issuer| Answer::After(Duration::from_millis(200), issuer.jwks().to_string());
    let tried = Tried::with(late, "").await;
    assert_eq!(tried.seen().await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_too_slow_costs_its_first_callers_the_timeout_and_others_nothing() {
    let late = |issuer: &Issuer| Answer::After(Duration::from_secs(30), issuer.jwks().to_string());
    let tried = Tried::with(late, "").await;
    let started = Instant::now();
    assert_eq!(tried.seen().await, unavailable());
    println!("the first caller was refused after {:?}", started.elapsed());
    // From then on at once, while attempts go on in the background.
    for _ in 0..3 {
        let started = Instant::now();
        assert_eq!(tried.seen().await, unavailable());
        assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    }
    tried.endpoint.now_answers(keys(&tried.issuer));
    tried.until(200, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_and_huge_answers_are_no_keys_and_leave_the_last_good_ones_in_force() {
    let not_keys = [
        Answer::Nothing,
        Answer::Endless,
        Answer::Raw("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_owned()),
        Answer::Raw(
            "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n".to_owned(),
        ),
        Answer::Raw("nonsense\r\n\r\n".to_owned()),
        Answer::Body("<html>".to_owned()),
        Answer::Body(json!({"keys": []}).to_string()),
        Answer::Body(json!({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}).to_string()),
        Answer::Body(json!({"keys": vec![Value::Null; 101]}).to_string()),
        Answer::Body(format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(300 << 10))),
    ];
    for answer in not_keys {
        let tried = Tried::with(|_| answer, "").await;
        assert_eq!(tried.seen().await, unavailable());
        assert!(tried.endpoint.asked() > 0);
    }
    let tried = Tried::with(keys, "").await;
    assert_eq!(tried.seen().await.0, 200);
    // A token of a key that is not known makes it fetch: what comes is no keys, and changes nothing.
    let rotated = Issuer::new(tried.issuer.name(), "k2");
    let (asked, started) = (tried.endpoint.asked(), Instant::now());
    tried.endpoint.now_answers(Answer::Body("<html>".to_owned()));
    while tried.endpoint.asked() == asked {
        assert_eq!(tried.send(&rotated).await, (401, "jwt_unknown_key".to_owned()));
        assert!(started.elapsed() < Duration::from_secs(20), "it was never asked again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(tried.seen().await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_an_issuer_that_is_gone_count_until_they_are_stale() {
    let tried = Tried::with(keys, "jwks: {maxStale: 2s}\n").await;
    assert_eq!(tried.seen().await.0, 200);
    tried.endpoint.now_answers(Answer::Nothing);
    assert_eq!(tried.seen().await.0, 200, "the last good keys");
    tried.until(401, "jwt_keys_unavailable").await;
    tried.endpoint.now_answers(keys(&tried.issuer));
    tried.until(200, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_is_learnt_once_for_all_and_the_old_one_is_good_no_more() {
    let tried = Tried::with(keys, "").await;
    assert_eq!(tried.seen().await.0, 200);
    assert_eq!(tried.seen().await.0, 200);
    let rotated = Issuer::new(tried.issuer.name(), "k2");
    tried.endpoint.now_answers(keys(&rotated));
    let asked = tried.endpoint.asked();
    let started = Instant::now();
    loop {
        // Many at once share one fetch, and the cooldown keeps even that rare.
        let all = futures_util::future::join_all((0..10).map(|_| tried.send(&rotated))).await;
        if all.iter().all(|(status, _)| *status == 200) {
            break;
        }
        assert!(
            all.iter().all(|(_, code)| code.is_empty() || code == "jwt_unknown_key"),
            "{all:?}"
        );
        assert!(started.elapsed() < Duration::from_secs(20), "{all:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(tried.endpoint.asked(), asked + 1, "one fetch for all");
    assert_eq!(tried.send(&tried.issuer).await, (401, "jwt_unknown_key".to_owned()));
    let (status, metrics) = tried.sidecar.admin("/metrics").await;
    assert_eq!(status, StatusCode::OK);
    let count = |cached: &str| -> u64 {
        let name = format!("picket_tokens_checked_total{{cached=\"{cached}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
        line.parse().unwrap()
    };
    assert!(count("no") > 0 && count("yes") == 0, "each token here is another one");
}
