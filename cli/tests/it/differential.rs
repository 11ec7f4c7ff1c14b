//! Our decisions against a real Envoy's.
//!
//! Policy sets and requests are made by a seed. Each set goes through `picket policy export --envoy`'s own
//! translation into one Envoy, each request over a real connection to it; the same request is decided
//! here by the stages that a proxy runs. They must agree on the verdict, on the stage that gave it, and on
//! what AUDIT and dry-run policies note. A difference is made small and shown as YAML with its request.
//!
//! `PICKET_DIFFERENTIAL_DECISIONS` and `PICKET_DIFFERENTIAL_SEED` make it longer and other; figures are
//! printed, see them with `--nocapture`. What is not compared, since the two differ on purpose, stands in
//! `docs/policy.md`: requests that are refused for an ambiguous path or for several tokens.

mod client;
mod coverage;
mod generate;
mod oracle;
mod shrink;
mod tokens;
mod verdict;
mod whole;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use picket_policy::envoy::EnvoyConfig;
use picket_policy::explain::{Explainer, Request};
use picket_policy::jwt::NoRemoteKeys;
use picket_policy::{Document, PolicySet};
use picket_testkit::mesh::Files;
use picket_testkit::program::ENVOY;
use picket_testkit::{Mesh, Port};
use tempfile::TempDir;

use client::{Answer, Callers};
use coverage::Coverage;
use generate::{NAME, NAMESPACE, PARTNER, Ports, Set, TRUST_DOMAIN};
use oracle::Oracle;
use tokens::Tokens;
use verdict::Verdict;

const HOUR: Duration = Duration::from_secs(3600);
/// What CI runs.
const DECISIONS: usize = 5_000;
const SEED: u64 = 1;
/// Policy sets in one Envoy.
const SETS: usize = 200;
/// Callers at one time.
const CALLERS: usize = 8;
/// Requests of a set that coverage looks at.
const COUNTED: usize = 25;
/// Smaller sets that are tried at one time.
const CANDIDATES: usize = 60;
/// Differences that are made small before the test fails.
const SHOWN: usize = 3;

/// What every round needs.
struct Ground {
    envoy: PathBuf,
    directory: TempDir,
    callers: Arc<Callers>,
    server: Files,
    bundle: PathBuf,
    ports: Ports,
    tokens: Tokens,
    now: u64,
}

/// A request on which the two disagree.
struct Difference {
    set: Set,
    request: Request,
    ours: Verdict,
    envoys: Verdict,
}

impl Ground {
    fn new(envoy: PathBuf) -> Self {
        let directory = TempDir::new().unwrap();
        let (mesh, partner) = (Mesh::new(TRUST_DOMAIN), Mesh::new(PARTNER));
        let server = mesh.files(&directory.path().join("server"), NAMESPACE, NAME, HOUR);
        let bundle = directory.path().join("authorities.pem");
        let pem = format!("{}{}", mesh.bundle().to_pem(), partner.bundle().to_pem());
        fs::write(&bundle, pem).unwrap();
        let (http, tcp) = (Port::reserve().release().port(), Port::reserve().release().port());
        let now = now();
        Self {
            envoy,
            callers: Arc::new(Callers::new(&mesh, &partner, (NAMESPACE, NAME))),
            directory,
            server,
            bundle,
            ports: Ports { http, tcp },
            tokens: Tokens::new(now),
            now,
        }
    }

    /// What both sides make of the requests of each set; none where the request itself is refused.
    async fn decide(&self, sets: &[(Set, Vec<Request>)]) -> Vec<Vec<Option<(Verdict, Verdict)>>> {
        let parsed: Vec<PolicySet> = sets.iter().map(|(set, _)| parse(set).unwrap()).collect();
        let configs: Vec<(IpAddr, EnvoyConfig)> = sets
            .iter()
            .zip(&parsed)
            .map(|((set, requests), parsed)| {
                let config = self.export(set, parsed).unwrap_or_else(|e| panic!("{e}"));
                (requests[0].destination_ip.unwrap(), config)
            })
            .collect();
        let directory = self.directory.path();
        let _oracle =
            Oracle::start(&self.envoy, directory, &self.server, &self.bundle, self.ports, &configs);
        let envoys = self.ask(sets).await;
        let mut verdicts = Vec::with_capacity(sets.len());
        for (((_, requests), parsed), answers) in sets.iter().zip(&parsed).zip(envoys) {
            let mut explainer = Explainer::new(parsed, &NoRemoteKeys, self.now);
            let pairs = requests.iter().zip(answers).map(|(request, answer)| {
                let ours = Verdict::ours(&explainer.answer(request), request.method.is_some())?;
                Some((ours, Verdict::envoys(&answer)))
            });
            verdicts.push(pairs.collect());
        }
        verdicts
    }

    /// Envoy's answers, with a few callers at a time.
    async fn ask(&self, sets: &[(Set, Vec<Request>)]) -> Vec<Vec<Answer>> {
        let limit = Arc::new(tokio::sync::Semaphore::new(CALLERS));
        let tasks: Vec<_> = sets
            .iter()
            .map(|(_, requests)| {
                let (callers, limit) = (Arc::clone(&self.callers), Arc::clone(&limit));
                let requests = requests.clone();
                tokio::spawn(async move {
                    let _permit = limit.acquire_owned().await.unwrap();
                    callers.send(&requests, destination).await
                })
            })
            .collect();
        let mut answers = Vec::with_capacity(tasks.len());
        for task in tasks {
            answers.push(task.await.unwrap());
        }
        answers
    }

    /// As `picket policy export` does: for HTTP and TCP in one, so for a settled port only if both are the
    /// same to the set.
    fn export(
        &self,
        set: &Set,
        parsed: &PolicySet,
    ) -> Result<EnvoyConfig, picket_policy::Diagnostics> {
        let workload = generate::workload();
        let of = |port| EnvoyConfig::of(parsed, &workload, Some(port));
        let (http, tcp) = (of(self.ports.http)?, of(self.ports.tcp)?);
        if !set.port_is_settled
            && let Ok(config) = EnvoyConfig::of(parsed, &workload, None)
        {
            return Ok(config);
        }
        Ok(EnvoyConfig { network_filters: tcp.network_filters, ..http })
    }

    /// As small as it gets.
    async fn shrink(&self, mut difference: Difference) -> Difference {
        loop {
            // The smallest first: it is a long way down.
            let mut candidates = shrink::smaller(&difference.set, &difference.request);
            candidates.sort_by_key(|(set, request)| {
                let documents: usize = set.documents.iter().map(|d| d.to_string().len()).sum();
                documents + serde_json::to_string(request).unwrap().len()
            });
            let candidates: Vec<(Set, Vec<Request>)> = candidates
                .into_iter()
                .filter(|(set, _)| parse(set).is_some_and(|p| self.export(set, &p).is_ok()))
                .take(CANDIDATES)
                .enumerate()
                .map(|(index, (set, request))| (set, vec![at(index, request)]))
                .collect();
            if candidates.is_empty() {
                return difference;
            }
            let verdicts = self.decide(&candidates).await;
            let smaller = candidates.into_iter().zip(verdicts).find_map(|(candidate, verdicts)| {
                let (set, mut requests) = candidate;
                let (ours, envoys) = verdicts.into_iter().next()??;
                (!ours.agrees(&envoys)).then(|| Difference {
                    set,
                    request: requests.remove(0),
                    ours,
                    envoys,
                })
            });
            match smaller {
                Some(smaller) => difference = smaller,
                None => return difference,
            }
        }
    }

    /// The policies as YAML, the request, and what both sides say.
    fn report(&self, difference: &Difference) -> String {
        let Difference { set, request, ours, envoys } = difference;
        let policies: Vec<String> =
            set.documents.iter().map(|document| shrink::yaml(document, 0)).collect();
        let request = serde_json::to_string(request).unwrap();
        let explained = Explainer::new(&parse(set).unwrap(), &NoRemoteKeys, self.now)
            .answer(&difference.request);
        format!(
            "{}\n# default action {:?}, mTLS {:?}, trust domain {:?}, {}\n# request: {}\n# picket: {ours}: {}\n# envoy:  {envoys}\n",
            policies.join("\n---\n"),
            set.settings.default_action,
            set.settings.default_mtls,
            set.settings.trust_domain,
            if set.port_is_settled { "exported for one port" } else { "exported for any port" },
            self.tokens.readable(&request),
            explained.reason,
        )
    }
}

/// The same request to the address of another set.
fn at(index: usize, request: Request) -> Request {
    // Half of the sets are in another network, which policies may ask for: that must stay as it is.
    let was_odd = matches!(request.destination_ip, Some(IpAddr::V4(ip)) if ip.octets()[1] == 2);
    let index = 2 * index + usize::from(was_odd);
    Request { destination_ip: Some(oracle::address(index).into()), ..request }
}

/// Where a request says that it goes.
fn destination(request: &Request) -> SocketAddr {
    SocketAddr::new(request.destination_ip.unwrap(), request.port.unwrap())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn parse(set: &Set) -> Option<PolicySet> {
    let documents: Vec<Document> = set
        .documents
        .iter()
        .enumerate()
        .map(|(index, document)| Document::whole(format!("{index}.yaml"), document.to_string()))
        .collect();
    PolicySet::parse(&documents, set.settings.clone()).ok()
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")),
        Err(_) => default,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_decides_as_we_do() {
    let Some(envoy) = ENVOY.or_skip("differential::envoy_decides_as_we_do") else { return };
    let wanted = number("PICKET_DIFFERENTIAL_DECISIONS", DECISIONS as u64) as usize;
    let seed = number("PICKET_DIFFERENTIAL_SEED", SEED);
    let started = Instant::now();
    let ground = Ground::new(envoy);
    let mut coverage = Coverage::default();
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let mut differences = Vec::new();
    let (mut sets, mut decisions, mut starts) = (0, 0, 0);
    // A long run asks more of each set: it is Envoy's start that takes time.
    let visits = if wanted > 10 * DECISIONS { 4 } else { 1 };
    // Goes on a little where a field has not been seen to match and to miss.
    let goes_on = |decisions: usize, coverage: &Coverage| {
        let is_whole = wanted < DECISIONS || decisions >= 3 * wanted || coverage.gaps().is_empty();
        decisions < wanted || !is_whole
    };
    while goes_on(decisions, &coverage) && differences.len() < SHOWN {
        let mut round = Vec::new();
        let is_gappy = decisions < DECISIONS || !coverage.gaps().is_empty();
        for index in 0..SETS {
            // Each set has a seed of its own, so that it does not depend on those before it.
            let mut random = Rng::with_seed(seed.wrapping_mul(1 << 32).wrapping_add(sets as u64));
            let set = generate::set(&mut random, &ground.tokens, ground.ports);
            let address = oracle::address(index);
            let requests =
                generate::requests(&mut random, &ground.tokens, ground.ports, address, visits);
            // It takes as long as all the rest, so no longer than it has something to find.
            if is_gappy {
                let some = requests.get(..COUNTED).unwrap_or(&requests);
                coverage.count(&set, some, ground.now);
            }
            round.push((set, requests));
            sets += 1;
        }
        starts += 1;
        let verdicts = ground.decide(&round).await;
        for ((set, requests), verdicts) in round.into_iter().zip(verdicts) {
            for (request, verdict) in requests.into_iter().zip(verdicts) {
                let Some((ours, envoys)) = verdict else { continue };
                decisions += 1;
                let kind = if request.method.is_some() { "http" } else { "tcp" };
                *outcomes.entry(format!("{kind} {:?}", ours.outcome)).or_default() += 1;
                if !ours.agrees(&envoys) {
                    differences.push(Difference { set: set.clone(), request, ours, envoys });
                }
            }
        }
    }
    let allowed: usize =
        outcomes.iter().filter(|(k, _)| k.ends_with("Allow")).map(|(_, n)| n).sum();
    println!(
        "seed {seed}: {sets} sets, {decisions} decisions, {allowed} allowed, {} denied, {} differences, \
         {starts} starts of Envoy, {:.0?}\n{outcomes:#?}\n{}",
        decisions - allowed,
        differences.len(),
        started.elapsed(),
        coverage.table(),
    );
    let count = differences.len();
    for Difference { request, ours, envoys, .. } in &differences {
        let request = serde_json::to_string(request).unwrap();
        println!("picket: {ours}\nenvoy:  {envoys}\n{}", ground.tokens.readable(&request));
    }
    let mut reports = Vec::new();
    for difference in differences.into_iter().take(SHOWN) {
        let small = ground.shrink(difference).await;
        reports.push(ground.report(&small));
    }
    assert!(reports.is_empty(), "{count} differences, seed {seed}:\n\n{}", reports.join("\n\n"));
    // Both must happen often, or agreement says little.
    assert!(allowed * 5 > decisions && allowed * 5 < decisions * 4, "{allowed} of {decisions}");
    if decisions >= DECISIONS {
        assert_eq!(coverage.gaps(), Vec::<String>::new(), "fields that did not match and miss");
    }
}
