//! What changes in a mesh without anybody meaning harm: deployments, new callers, bad minutes.

use super::clock::{DAY, is_working};
use super::draw::Draw;
use super::mesh::{Edge, Mesh, Rhythm};
use super::routes::{Route, further};

/// What is different from a minute on.
pub(crate) enum Change {
    /// The instances of a service are replaced by those of a new version, one a minute.
    Version { service: usize, version: String },
    /// A service has a further route, and some of its callers use it, with a share of their requests.
    Route { service: usize, route: Route, callers: Vec<usize>, share: f64 },
    /// Somebody calls whom he did not call before.
    Edge(Edge),
    /// An edge is used more or less than it was.
    Step { edge: usize, factor: f64 },
}

/// What is so for a while.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Episode {
    pub(crate) what: What,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    /// A service answers so many times more slowly.
    Slow { service: usize, factor: f64 },
    /// A share of a service's answers is 5xx.
    Failing { service: usize, share: f64 },
    /// An edge is used so many times more.
    Busy { edge: usize, factor: f64 },
    /// The policy that allows an edge has not come yet.
    Refused { source: usize, destination: usize },
}

#[derive(Default)]
pub(crate) struct Changes {
    /// In order of their minutes.
    pub(crate) changes: Vec<(i64, Change)>,
    pub(crate) episodes: Vec<Episode>,
}

impl Changes {
    pub(crate) fn new(mesh: &Mesh, seed: u64, days: i64) -> Self {
        let mut draw = Draw::apart(seed, 2);
        let mut all = Self::default();
        for service in 0..mesh.services.len() {
            all.deployments(mesh, service, days, &mut draw);
            all.bad_minutes(service, days, &mut draw);
        }
        all.bursts(mesh, days, &mut draw);
        // A new caller by configuration alone, once in some days.
        for _ in 0..(days + 3) / 4 {
            let minute = working(days, &mut draw);
            all.callee(mesh, minute, draw.below(mesh.services.len()), &mut draw);
        }
        all.changes.sort_by_key(|(minute, _)| *minute);
        all
    }

    /// Pairs that call each other at some time because of a change.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        self.changes.iter().filter_map(|(_, change)| match change {
            Change::Edge(edge) => Some((edge.source, edge.destination)),
            _ => None,
        })
    }

    fn deployments(&mut self, mesh: &Mesh, service: usize, days: i64, draw: &mut Draw) {
        let is_busy = mesh.service(service).namespace == "shop";
        let (mut minute, mut number) = (draw.whole(0, 5 * DAY), 1);
        while minute < days * DAY {
            // Who deploys does so at working hours, give or take a night.
            let Some(at) = (minute..days * DAY).find(|minute| is_working(*minute)) else { return };
            let at = at + draw.whole(0, 300);
            number += 1;
            let version = format!("1.{number}.{}", draw.whole(0, 4));
            self.changes.push((at, Change::Version { service, version }));
            if is_busy && draw.happens(0.25) {
                self.route(mesh, at + 8, service, number, draw);
            }
            if is_busy && draw.happens(0.12) {
                self.callee(mesh, at + draw.whole(5, 90), service, draw);
            }
            let mine: Vec<usize> = edges(mesh, |edge| edge.source == service);
            if let Some(edge) = draw.one(&mine).copied().filter(|_| draw.happens(0.12)) {
                let factor = draw.log_normal(1.0, 0.3).clamp(0.6, 1.7);
                self.changes.push((at + 6, Change::Step { edge, factor }));
            }
            minute = at + draw.whole(2 * DAY, 7 * DAY);
        }
    }

    fn route(&mut self, mesh: &Mesh, at: i64, service: usize, number: usize, draw: &mut Draw) {
        let callers = edges(mesh, |edge| {
            edge.destination == service && matches!(edge.rhythm, Rhythm::People { .. })
        });
        let callers = callers.into_iter().filter(|_| draw.happens(0.6)).collect();
        let (route, share) = (further(number + service, draw), draw.between(0.03, 0.25));
        self.changes.push((at, Change::Route { service, route, callers, share }));
    }

    fn callee(&mut self, mesh: &Mesh, at: i64, source: usize, draw: &mut Draw) {
        let destination = draw.below(mesh.services.len());
        let known =
            mesh.calls(source, destination) || self.pairs().any(|p| p == (source, destination));
        let of = |place: usize| mesh.service(place);
        let fits = matches!(of(source).namespace, "shop" | "ops" | "access")
            && matches!(of(destination).namespace, "shop" | "ops" | "data")
            && of(source).name != "monitor"
            && of(destination).name != "monitor";
        if known || source == destination || !fits {
            return;
        }
        let rate = draw.log_normal(0.25, 0.8);
        let rhythm =
            Rhythm::People { peak: 15.0 + draw.between(-2.0, 2.0), swing: 0.6, weekend: 0.6 };
        let edge = mesh.edge(source, destination, "", rate, rhythm, draw);
        self.changes.push((at, Change::Edge(edge)));
        if draw.happens(0.3) {
            let what = What::Refused { source, destination };
            self.episodes.push(Episode { what, from: at, to: at + draw.whole(3, 25) });
        }
    }

    fn bad_minutes(&mut self, service: usize, days: i64, draw: &mut Draw) {
        for _ in 0..draw.poisson(days as f64 / 10.0) {
            let (from, factor) = (draw.whole(0, days * DAY), draw.between(3.0, 10.0));
            let what = What::Slow { service, factor };
            self.episodes.push(Episode { what, from, to: from + draw.whole(5, 30) });
        }
        for _ in 0..draw.poisson(days as f64 / 8.0) {
            let (from, share) = (draw.whole(0, days * DAY), draw.between(0.1, 0.6));
            let what = What::Failing { service, share };
            self.episodes.push(Episode { what, from, to: from + draw.whole(1, 5) });
        }
    }

    fn bursts(&mut self, mesh: &Mesh, days: i64, draw: &mut Draw) {
        for edge in edges(mesh, |edge| matches!(edge.rhythm, Rhythm::People { .. })) {
            for _ in 0..draw.poisson(days as f64 / 14.0) {
                let (from, factor) = (draw.whole(0, days * DAY), draw.between(1.5, 2.5));
                let what = What::Busy { edge, factor };
                self.episodes.push(Episode { what, from, to: from + draw.whole(5, 15) });
            }
        }
    }
}

/// A minute of working hours.
fn working(days: i64, draw: &mut Draw) -> i64 {
    let minute = draw.whole(0, days * DAY);
    (minute..days * DAY).find(|minute| is_working(*minute)).unwrap_or(minute)
}

pub(crate) fn edges(mesh: &Mesh, fits: impl Fn(&Edge) -> bool) -> Vec<usize> {
    mesh.edges.iter().enumerate().filter(|(_, edge)| fits(edge)).map(|(place, _)| place).collect()
}
