//! Attacks in the second half of the time: what they do to traffic, and which labels they leave.
//!
//! Whoever attacks has a workload's identity, so that nothing fails at the handshake. Each kind comes three times:
//! plainly, as one would expect it, and so weakly that it may well pass for chance.

mod edges;
mod requests;

use std::collections::HashSet;

use super::changes::edges as places;
use super::clock::{At, DAY, MINUTE};
use super::draw::Draw;
use super::mesh::{Edge, Mesh, Rhythm};
use super::request::Request;

/// How plain it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grade {
    Plain,
    Moderate,
    Weak,
}

impl Grade {
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Moderate, Self::Weak];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Moderate => "moderate",
            Self::Weak => "weak",
        }
    }

    /// One of three figures.
    fn of<T: Copy>(self, figures: [T; 3]) -> T {
        let [plain, moderate, weak] = figures;
        match self {
            Self::Plain => plain,
            Self::Moderate => moderate,
            Self::Weak => weak,
        }
    }
}

/// What becomes of the usual requests of edges for a while.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effect {
    /// `None`: whoever calls.
    pub(crate) source: Option<usize>,
    pub(crate) destination: usize,
    /// Minutes.
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) harm: Harm,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Harm {
    /// So many times as many as on average over the day; those that are added have answers that are larger by a factor.
    More { factor: f64, larger: f64 },
    /// So many times as many as usual at that hour.
    Grown(f64),
    /// So many times as slow.
    Slow(f64),
    /// A share is answered 500.
    Fails(f64),
    /// There are none.
    Silence,
}

impl Effect {
    pub(crate) fn is_on(&self, edge: &Edge) -> bool {
        self.destination == edge.destination
            && self.source.is_none_or(|source| source == edge.source)
    }
}

#[derive(Debug)]
pub(crate) struct Attack {
    pub(crate) kind: &'static str,
    pub(crate) grade: Grade,
    pub(crate) from: At,
    pub(crate) to: At,
    /// The pairs that are concerned.
    pub(crate) edges: Vec<(usize, usize)>,
    /// Detectors, by their ids, and rules, by their titles, of what an edge does not do usually: their alert on such an edge
    /// and in its time has found the attack whichever records it names. An attack by effects is found by nothing else.
    pub(crate) features: &'static [&'static str],
    pub(crate) effects: Vec<Effect>,
    pub(crate) requests: Vec<Request>,
}

/// Plans one attack, if there is room for it.
type Kind = fn(&mut Plan<'_>, Grade) -> Option<Attack>;

pub(crate) const KINDS: [(&str, Kind); 22] = [
    ("unusual_route", requests::unusual_route),
    ("unusual_edge", requests::unusual_edge),
    ("lateral_fast", requests::lateral_fast),
    ("lateral_slow", requests::lateral_slow),
    ("exfiltration_once", requests::exfiltration_once),
    ("exfiltration_slow", edges::exfiltration_slow),
    ("exfiltration_upload", requests::exfiltration_upload),
    ("beacon", requests::beacon),
    ("credential_stuffing", requests::credential_stuffing),
    ("path_scan", requests::path_scan),
    ("method_misuse", requests::method_misuse),
    ("rate_flood", edges::rate_flood),
    ("slow_rise", edges::slow_rise),
    ("error_induction", edges::error_induction),
    ("token_theft", requests::token_theft),
    ("second_address", requests::second_address),
    ("off_hours_admin", requests::off_hours_admin),
    ("traversal", requests::traversal),
    ("job_fan_out", requests::job_fan_out),
    ("quiet_death", edges::quiet_death),
    ("latency", edges::latency),
    ("scraping", requests::scraping),
];

/// So often a place is looked for where nothing else goes on.
const TRIES: usize = 60;
/// Two attacks by effects are at least so many minutes apart on one edge.
const APART: i64 = 6 * 60;

pub(crate) struct Plan<'m> {
    mesh: &'m Mesh,
    draw: Draw,
    days: i64,
    /// Pairs that call each other, at some time.
    known: HashSet<(usize, usize)>,
    /// Effects that are planned: called service, minutes.
    taken: Vec<(usize, i64, i64)>,
}

impl<'m> Plan<'m> {
    /// All attacks of some days. `known` are pairs that will call each other without harm.
    pub(crate) fn attacks(
        mesh: &'m Mesh,
        known: impl Iterator<Item = (usize, usize)>,
        seed: u64,
        days: i64,
    ) -> Vec<Attack> {
        let of_mesh = mesh.edges.iter().map(|edge| (edge.source, edge.destination));
        let known = known.chain(of_mesh).collect();
        let mut plan = Self { mesh, draw: Draw::apart(seed, 6), days, known, taken: Vec::new() };
        let mut attacks: Vec<Attack> = Vec::new();
        for grade in Grade::ALL {
            for (_, kind) in KINDS {
                let number = attacks.len();
                attacks.extend(kind(&mut plan, grade).map(|mut attack| {
                    for request in &mut attack.requests {
                        request.attack = Some(number);
                    }
                    attack
                }));
            }
        }
        attacks
    }

    /// A minute of the second half, with room for so many more.
    fn minute(&mut self, length: i64) -> i64 {
        self.draw.whole(self.days * DAY / 2 + 60, self.days * DAY - length - 60)
    }

    /// So many times within minutes, in order.
    fn times(&mut self, from: i64, length: i64, count: usize) -> Vec<At> {
        let mut times: Vec<At> = (0..count)
            .map(|_| At(At::of_minute(from).0 + self.draw.whole(0, length * MINUTE)))
            .collect();
        times.sort();
        times
    }

    /// An edge that people's use drives, by its place in the order of rates: 0 is the busiest.
    fn edge(
        &mut self,
        ranks: std::ops::Range<usize>,
        fits: impl Fn(&Edge) -> bool,
    ) -> Option<&'m Edge> {
        let mesh = self.mesh;
        let mut all: Vec<&Edge> =
            mesh.edges.iter().filter(|edge| matches!(edge.rhythm, Rhythm::People { .. })).collect();
        all.sort_by(|a, b| b.rate.total_cmp(&a.rate));
        let fitting: Vec<&Edge> = all
            .get(ranks.start.min(all.len())..ranks.end.min(all.len()))?
            .iter()
            .copied()
            .filter(|edge| fits(edge))
            .collect();
        self.draw.one(&fitting).copied()
    }

    /// Minutes in which nothing else is planned for a service.
    fn quiet(&mut self, destination: usize, length: i64) -> Option<i64> {
        let from = self.minute(length);
        let meets = |(service, begin, end): &(usize, i64, i64)| {
            *service == destination && from < end + APART && from + length > begin - APART
        };
        if self.taken.iter().any(meets) {
            return None;
        }
        self.taken.push((destination, from, from + length));
        Some(from)
    }

    /// A service of a namespace.
    fn service(&mut self, namespaces: &[&str]) -> Option<usize> {
        let mesh = self.mesh;
        let fits = |place: &usize| namespaces.contains(&mesh.service(*place).namespace);
        let all: Vec<usize> = (0..mesh.services.len()).filter(fits).collect();
        let service = self.draw.one(&all).copied()?;
        (mesh.service(service).name != "ingress").then_some(service)
    }

    /// The place of a route of a service that is one of those.
    fn route(
        &mut self,
        service: usize,
        fits: impl Fn(usize, &super::routes::Route) -> bool,
    ) -> Option<usize> {
        let routes = self.mesh.service(service).routes.iter().enumerate();
        let all: Vec<usize> = routes
            .filter(|(place, route)| !is_probe(&route.pattern) && fits(*place, route))
            .map(|(place, _)| place)
            .collect();
        self.draw.one(&all).copied()
    }
}

fn is_probe(pattern: &str) -> bool {
    matches!(pattern, "/healthz" | "/metrics")
}

/// An attack by requests of its own.
fn by_requests(kind: &'static str, grade: Grade, requests: Vec<Request>) -> Option<Attack> {
    let from = requests.iter().map(|request| request.at).min()?;
    let to = requests.iter().map(|request| request.at).max()?;
    let mut edges: Vec<(usize, usize)> =
        requests.iter().map(|request| (request.source, request.destination)).collect();
    edges.sort_unstable();
    edges.dedup();
    Some(Attack { kind, grade, from, to, edges, features: &[], effects: Vec::new(), requests })
}

/// An attack by what it does to the requests of others.
fn by_effects(
    mesh: &Mesh,
    kind: &'static str,
    grade: Grade,
    features: &'static [&'static str],
    effects: Vec<Effect>,
) -> Option<Attack> {
    let from = At::of_minute(effects.iter().map(|effect| effect.from).min()?);
    let to = At::of_minute(effects.iter().map(|effect| effect.to).max()?);
    let hit = places(mesh, |edge| effects.iter().any(|effect| effect.is_on(edge)));
    let mut edges: Vec<(usize, usize)> = hit
        .into_iter()
        .filter_map(|place| mesh.edges.get(place))
        .map(|edge| (edge.source, edge.destination))
        .collect();
    edges.sort_unstable();
    edges.dedup();
    Some(Attack { kind, grade, from, to, edges, features, effects, requests: Vec::new() })
}
