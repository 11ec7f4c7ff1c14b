//! What a proxy's spool does when the disk fails, when it is full, and when the proxy is killed: real
//! processes, a real file system, and a receiver that checks every chain.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use picket_testkit::otlp::{self, Received, sha256};
use picket_testkit::{Echo, Mesh, OtlpSink, Process, eventually};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);

/// A proxy from files as a process, in front of an echo; whoever comes may do anything.
struct Proxy {
    directory: TempDir,
    echo: Echo,
    sink: OtlpSink,
    process: Option<Process>,
    environment: Vec<(String, PathBuf)>,
    mounted: bool,
}

impl Proxy {
    async fn new(audit: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let root = directory.path();
        let mesh = Mesh::new("example.org");
        mesh.files(&root.join("identity"), "shop", "orders", Duration::from_secs(3600));
        fs::create_dir(root.join("policies")).unwrap();
        let (echo, sink) = (Echo::start().await, OtlpSink::start().await);
        let (path, forward, otlp) = (root.display(), echo.address(), sink.url());
        let config = format!(
            "trustDomain: example.org\nstateDir: {path}/state\n\
             workload: {{namespace: shop, serviceAccount: orders}}\n\
             files: {{certificate: {path}/identity/svid.pem, key: {path}/identity/key.pem, \
             bundle: {path}/identity/bundle.pem, policyDir: {path}/policies, otlp: '{otlp}', \
             defaultAction: allow, defaultMtls: PERMISSIVE}}\n\
             inbound: [{{listen: '127.0.0.1:0', forward: '{forward}'}}]\n\
             admin: {{listen: '127.0.0.1:0'}}\nworkers: 1\naudit: {{{audit}}}\n"
        );
        fs::write(root.join("proxy.yaml"), config).unwrap();
        let (process, environment) = (None, Vec::new());
        Self { directory, echo, sink, process, environment, mounted: false }
    }

    fn start(&mut self) {
        let _none_yet = fs::remove_file(self.path("state/addresses.json"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_picket"));
        command.args(["proxy", "run", "--config"]).arg(self.path("proxy.yaml"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::start("proxy", self.directory.path(), command));
        eventually(LIMIT, "the proxy is ready", || {
            crate::mesh::get(self.address("/admin")?, "/readyz")
                .filter(|(status, _)| *status == 200)
        });
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn address(&self, pointer: &str) -> Option<SocketAddr> {
        let text = fs::read_to_string(self.path("state/addresses.json")).ok()?;
        let addresses: serde_json::Value = serde_json::from_str(&text).ok()?;
        addresses.pointer(pointer)?.as_str()?.parse().ok()
    }

    /// Begins a request, and sends so much of it.
    fn send(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address("/inbound/0").unwrap()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }

    fn call(&self, method: &str, path: &str) -> u16 {
        let head = "HTTP/1.1\r\nhost: orders\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let mut answer = String::new();
        self.send(&format!("{method} {path} {head}")).read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn metric(&self, name: &str) -> u64 {
        let (_, text) = crate::mesh::get(self.address("/admin").unwrap(), "/metrics").unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Ends the receiver; gives what starts it again.
    async fn receiver_goes(&mut self) -> SocketAddr {
        let address = self.sink.address();
        self.sink = OtlpSink::start().await;
        address
    }

    async fn receiver_comes(&mut self, address: SocketAddr) {
        eventually(LIMIT, "the port is free", || std::net::TcpListener::bind(address).ok());
        self.sink = OtlpSink::start_on(address).await;
    }

    /// Ends the proxy; gives everything that has arrived.
    fn finish(&mut self) -> Vec<Received> {
        assert!(self.process.take().unwrap().terminate(LIMIT).success());
        self.sink.spans()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.process = None;
        if self.mounted {
            let _status = Command::new("umount").arg("-l").arg(self.path("state")).status();
        }
    }
}

/// Every chain from its seed to its end, and every number once or declared missing.
fn reconcile(spans: &[Received]) -> BTreeMap<(String, i64), u64> {
    let mut lanes: BTreeMap<(String, i64), BTreeMap<i64, &Received>> = BTreeMap::new();
    let mut missing: BTreeMap<(String, i64), u64> = BTreeMap::new();
    for span in spans {
        let boot = span.resource_text("service.instance.id").unwrap().to_owned();
        let lane = span.int("picket.lane").unwrap();
        let position = span.int("picket.chain.position").unwrap();
        let before = lanes.entry((boot, lane)).or_default().insert(position, span);
        assert!(before.is_none_or(|before| before.bytes == span.bytes), "two of one place");
        // What was refused is among the spans here, from the dead letters.
        let reason = span.text("picket.gap.reason");
        if let Some(count) = span.int("picket.gap.count").filter(|_| reason != Some("refused")) {
            let boot = span.text("picket.gap.boot").unwrap().to_owned();
            let lane = span.int("picket.gap.lane").unwrap();
            *missing.entry((boot, lane)).or_default() += u64::try_from(count).unwrap();
        }
    }
    for ((boot, lane), spans) in lanes {
        let emitter = spans.values().next().unwrap().resource_text("picket.emitter").unwrap();
        let seed = format!("picket-chain-v1\n{emitter}\n{boot}\n{lane}\n");
        let mut last = sha256(seed.as_bytes());
        let mut highest = 0;
        for (expected, (position, span)) in (1..).zip(&spans) {
            assert_eq!(*position, expected, "lane {lane} of {boot}");
            assert_eq!(span.text("picket.chain.previous"), Some(last.as_str()));
            last = sha256(&span.bytes);
            highest = highest.max(span.int("picket.sequence").unwrap());
        }
        let lost = missing.get(&(boot, lane)).copied().unwrap_or_default();
        assert_eq!(u64::try_from(highest).unwrap(), spans.len() as u64 + lost, "lane {lane}");
    }
    missing
}

fn paths(spans: &[Received]) -> Vec<(&str, &str)> {
    let of = |span: &Received, name| span.text(name).is_some();
    let spans = spans.iter().filter(|span| of(span, "url.path"));
    spans.map(|s| (s.text("url.path").unwrap(), s.text("picket.ending").unwrap())).collect()
}

const ROUTES: &str = "routes: [{paths: ['/memory/*'], durability: memory}, \
                      {paths: ['/committed/{**}'], methods: [POST], durability: committed}]";

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_takes_what_was_under_way_in_memory_and_nothing_else() {
    let mut proxy = Proxy::new(ROUTES).await;
    proxy.start();
    for path in ["/memory/whole", "/committed/a/b", "/else"] {
        assert_eq!(proxy.call("POST", path), 200);
    }
    let _open: Vec<TcpStream> = ["/memory/open", "/committed/open", "/open"]
        .iter()
        .map(|path| {
            proxy.send(&format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc"))
        })
        .collect();
    eventually(LIMIT, "all six are with the service", || {
        (proxy.echo.requests() == 6).then_some(())
    });
    proxy.process.as_mut().unwrap().kill();
    // The successor is killed, too, before it has come to send anything; so is nothing lost.
    let address = proxy.receiver_goes().await;
    proxy.start();
    proxy.process.as_mut().unwrap().kill();
    proxy.receiver_comes(address).await;
    proxy.start();
    let arrived = proxy.sink.at_least(5).await;
    let spans = proxy.finish();
    assert!(spans.len() >= arrived.len());
    // What had arrived before may have come again: the same bytes.
    reconcile(&spans);
    let mut found = paths(&spans);
    found.sort_unstable();
    found.dedup();
    let open = [("/committed/open", "interrupted"), ("/open", "interrupted")];
    let found: Vec<_> = found.into_iter().filter(|(_, ending)| *ending == "interrupted").collect();
    assert_eq!(found, open);
    let committed = spans.iter().find(|s| s.text("url.path") == Some("/committed/open")).unwrap();
    assert_eq!(committed.text("picket.durability"), Some("committed"));
}

/// A library that makes `fdatasync` of segments fail as long as a file is there.
fn failing_sync(directory: &Path) -> PathBuf {
    let (source, library) = (directory.join("sync.c"), directory.join("sync.so"));
    let text = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int fdatasync(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    const char *flag = getenv("FAIL_SYNC");
    if (length > 0 && flag && access(flag, F_OK) == 0) {
        path[length] = 0;
        if (strstr(path, "lane-0-") && strstr(path, ".segment")) {
            errno = EIO;
            return -1;
        }
    }
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return next(fd);
}
"#;
    fs::write(&source, text).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    assert!(compiler.status().unwrap().success());
    library
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_synced_is_left_at_once_and_nothing_is_lost() {
    let mut proxy = Proxy::new(ROUTES).await;
    let flag = proxy.path("fail");
    let library = failing_sync(proxy.directory.path());
    proxy.environment =
        vec![("LD_PRELOAD".to_owned(), library), ("FAIL_SYNC".to_owned(), flag.clone())];
    proxy.start();
    assert_eq!(proxy.call("POST", "/committed/before"), 200);
    fs::write(&flag, "").unwrap();
    // What must be on disk and is not is not forwarded; everything else goes on.
    let forwarded = proxy.echo.requests();
    assert_eq!(proxy.call("POST", "/committed/failing"), 503);
    assert_eq!(proxy.echo.requests(), forwarded);
    assert_eq!(proxy.call("POST", "/spooled"), 200);
    fs::remove_file(&flag).unwrap();
    assert_eq!(proxy.call("POST", "/committed/after"), 200);
    assert!(proxy.metric("picket_audit_sync_failures_total") > 0);
    let spans = proxy.finish();
    assert_eq!(reconcile(&spans), BTreeMap::new(), "all that was in it could be read");
    let mut found = paths(&spans);
    found.sort_unstable();
    let expected = [
        ("/committed/after", "completed"),
        ("/committed/before", "completed"),
        ("/committed/failing", "refused"),
        ("/spooled", "completed"),
    ];
    assert_eq!(found, expected);
    let details = spans.iter().filter_map(|span| span.text("picket.detail"));
    assert!(details.into_iter().any(|detail| detail.contains("fsync failed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_a_full_spool_and_everything_is_accounted_for() {
    // The limit is far away; the disk is not.
    let mut proxy = Proxy::new("maxSize: 1GiB").await;
    fs::create_dir(proxy.path("state")).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=20m,mode=700", "tmpfs"]).arg(proxy.path("state"));
    if !mount.status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED a_full_disk_is_a_full_spool: needs the right to mount; run it as root");
        return;
    }
    proxy.mounted = true;
    proxy.start();
    let address = proxy.receiver_goes().await;
    let long = format!("/{}", "a".repeat(2000));
    let mut sent = 0_u64;
    while proxy.call("POST", &long) == 200 {
        sent += 1;
        assert!(sent < 20_000, "it is never full");
    }
    let reached = proxy.echo.requests();
    assert_eq!(proxy.call("DELETE", &long), 503);
    assert_eq!(proxy.echo.requests(), reached, "what is not recorded is not forwarded");
    for _ in 0..10 {
        assert_eq!(proxy.call("GET", &long), 200);
    }
    assert!(proxy.metric("picket_audit_records_lost_total") >= 10);
    proxy.receiver_comes(address).await;
    eventually(LIMIT, "there is room again", || (proxy.call("POST", &long) == 200).then_some(()));
    let lost = proxy.metric("picket_audit_records_lost_total");
    let spans = proxy.finish();
    let missing = reconcile(&spans);
    assert_eq!(missing.values().sum::<u64>(), lost);
    let details: Vec<&str> = spans.iter().filter_map(|s| s.text("picket.detail")).collect();
    for word in ["high", "scarce", "recovered"] {
        assert!(details.iter().any(|detail| detail.starts_with(word)), "{word}: {details:?}");
    }
    let reasons: Vec<&str> = spans.iter().filter_map(|s| s.text("picket.gap.reason")).collect();
    assert!(reasons.contains(&"shed") && reasons.contains(&"full"), "{reasons:?}");
    let stored = spans.iter().filter(|s| s.text("http.request.method") == Some("POST")).count();
    assert!(stored as u64 > sent, "{stored} of {sent}");
}

/// What a proxy has set aside.
fn dead_letters(proxy: &Proxy) -> Vec<Received> {
    let mut bytes = fs::read(proxy.path("state/dead-letters.otlp")).unwrap_or_default();
    let mut found = Vec::new();
    while !bytes.is_empty() {
        // Each after its length, as a varint.
        let digits = 1 + bytes.iter().position(|byte| byte & 0x80 == 0).unwrap();
        let length = bytes[..digits].iter().rev().fold(0, |n, b| n << 7 | usize::from(b & 0x7f));
        found.extend(otlp::spans(&bytes[digits..digits + length]).unwrap());
        bytes.drain(..digits + length);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisonous_record_is_set_aside_alone_and_blocks_nothing() {
    let mut proxy = Proxy::new("").await;
    let poisonous = |span: &Received| span.text("url.path").is_some_and(|p| p.contains("poison"));
    proxy.sink.refuse("3", poisonous);
    proxy.start();
    for number in 0..40 {
        let path =
            if number % 13 == 5 { format!("/poison/{number}") } else { format!("/{number}") };
        assert_eq!(proxy.call("POST", &path), 200);
    }
    eventually(LIMIT, "it is declared", || {
        let spans = proxy.sink.spans();
        let counts = spans.iter().filter_map(|span| span.int("picket.gap.count"));
        (counts.sum::<i64>() == 3).then_some(())
    });
    let mut spans = proxy.finish();
    assert!(proxy.sink.compressed() > 0);
    assert_eq!(spans.iter().filter(|span| poisonous(span)).count(), 0);
    let dead = dead_letters(&proxy);
    let paths: Vec<&str> = dead.iter().map(|span| span.text("url.path").unwrap()).collect();
    assert_eq!(paths, ["/poison/5", "/poison/18", "/poison/31"]);
    spans.extend(dead);
    assert_eq!(reconcile(&spans), BTreeMap::new());
    // Nothing is left to send: the spool is gone.
    assert_eq!(fs::read_dir(proxy.path("state/audit")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_the_receiver_forbids_does_not_keep_others() {
    let mut proxy = Proxy::new("compression: none").await;
    proxy.start();
    let address = proxy.receiver_goes().await;
    for _ in 0..10 {
        assert_eq!(proxy.call("GET", "/old"), 200);
    }
    proxy.process.as_mut().unwrap().kill();
    let boot = fs::read_dir(proxy.path("state/audit")).unwrap().next().unwrap().unwrap();
    let boot = boot.file_name().into_string().unwrap();
    proxy.receiver_comes(address).await;
    let forbidden = boot.clone();
    proxy.sink.refuse("7", move |span| {
        span.resource_text("service.instance.id") == Some(forbidden.as_str())
    });
    proxy.start();
    assert_eq!(proxy.call("GET", "/new"), 200);
    eventually(LIMIT, "the new boot's record arrives", || {
        let spans = proxy.sink.spans();
        let found = |key, value: &str| spans.iter().any(|span| span.text(key) == Some(value));
        (found("url.path", "/new") && found("picket.gap.boot", &boot)).then_some(())
    });
    let mut spans = proxy.finish();
    assert_eq!(proxy.sink.compressed(), 0);
    let details: Vec<&str> = spans.iter().filter_map(|s| s.text("picket.detail")).collect();
    assert!(details.iter().any(|d| d.contains("set aside") && d.contains(&boot)), "{details:?}");
    let dead = dead_letters(&proxy);
    assert_eq!(dead.len(), 10);
    spans.extend(dead);
    assert_eq!(reconcile(&spans), BTreeMap::new());
}
