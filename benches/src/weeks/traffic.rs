//! The requests of two weeks, minute by minute, in the order of their times.

use super::attacks::{Attack, Effect, Harm};
use super::changes::{Change, Changes, Episode, What};
use super::clock::{At, MINUTE, SECOND};
use super::draw::Draw;
use super::mesh::{Edge, Mesh, Rhythm};
use super::request::{NO_RIGHT, Person, Request};

/// A failed request is tried again this often.
const RETRIED: f64 = 0.5;
/// Of the level of an edge: how much of it is left an hour later, and how far it strays.
const KEPT: f64 = 0.92;
const STRAYS: f64 = 0.1;
/// Of an edge's requests that are attributed to people, those whose token is kept for thieves.
const NEWEST: usize = 50;

pub(crate) struct Traffic<'a> {
    mesh: Mesh,
    changes: std::iter::Peekable<std::vec::IntoIter<(i64, Change)>>,
    episodes: Vec<Episode>,
    attacks: &'a [Attack],
    /// Of each edge, how much more than usual it is used in this hour, as a logarithm.
    levels: Vec<f64>,
    draw: Draw,
    /// What attacks draw from, so that the rest is the same with and without them.
    harm: Draw,
    /// Requests of attacks, the last first.
    injected: Vec<Request>,
    /// What was begun in this minute and comes in the next ones.
    later: Vec<Request>,
    /// Who was seen last.
    newest: Vec<Person>,
}

/// What is so on an edge within a minute.
struct Now {
    slow: f64,
    failing: f64,
    busy: f64,
    is_refused: bool,
    effects: Vec<(usize, Effect)>,
}

/// Episodes, and effects with the attack that they are of, of one minute.
type Active<'m> = (&'m [Episode], &'m [(usize, Effect)]);

impl<'a> Traffic<'a> {
    pub(crate) fn new(mesh: Mesh, changes: Changes, attacks: &'a [Attack], seed: u64) -> Self {
        let mut injected: Vec<Request> =
            attacks.iter().flat_map(|attack| attack.requests.iter().cloned()).collect();
        injected.sort_by_key(|request| std::cmp::Reverse(request.at));
        Self {
            levels: vec![0.0; mesh.edges.len()],
            mesh,
            changes: changes.changes.into_iter().peekable(),
            episodes: changes.episodes,
            attacks,
            draw: Draw::apart(seed, 3),
            harm: Draw::apart(seed, 4),
            injected,
            later: Vec::new(),
            newest: Vec::new(),
        }
    }

    /// The mesh as it is in the end.
    pub(crate) fn into_mesh(self) -> Mesh {
        self.mesh
    }

    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The requests of a minute, which has to follow the one before it. New versions are told of.
    pub(crate) fn minute(
        &mut self,
        minute: i64,
        mut deploy: impl FnMut(usize, String),
    ) -> Vec<Request> {
        while let Some((_, change)) = self.changes.next_if(|(at, _)| *at <= minute) {
            self.change(change, &mut deploy);
        }
        if minute % 60 == 0 {
            for level in &mut self.levels {
                *level = KEPT * *level + (1.0 - KEPT * KEPT).sqrt() * STRAYS * self.draw.normal();
            }
        }
        let episodes: Vec<Episode> =
            self.episodes.iter().filter(|e| (e.from..e.to).contains(&minute)).copied().collect();
        let attacks = self.attacks.iter().enumerate();
        let effects: Vec<(usize, Effect)> = attacks
            .flat_map(|(number, attack)| attack.effects.iter().map(move |effect| (number, *effect)))
            .filter(|(_, effect)| (effect.from..effect.to).contains(&minute))
            .collect();
        let end = At::of_minute(minute + 1);
        let mut requests = std::mem::take(&mut self.later);
        for place in 0..self.mesh.edges.len() {
            self.edge(place, minute, (&episodes, &effects), &mut requests);
        }
        while self.injected.last().is_some_and(|request| request.at < end) {
            let Some(mut request) = self.injected.pop() else { break };
            self.steal(&mut request);
            requests.push(request);
        }
        requests.sort_by_key(|request| request.at);
        self.later = requests.split_off(requests.partition_point(|request| request.at < end));
        requests
    }

    fn change(&mut self, change: Change, deploy: &mut impl FnMut(usize, String)) {
        match change {
            Change::Version { service, version } => deploy(service, version),
            Change::Route { service, route, callers, share } => {
                let Some(service) = self.mesh.services.get_mut(service) else { return };
                let place = service.routes.len();
                service.routes.push(route);
                for edge in callers {
                    let Some(edge) = self.mesh.edges.get_mut(edge) else { continue };
                    let sum: f64 = edge.uses.iter().map(|(_, weight)| weight).sum();
                    edge.uses.push((place, sum * share));
                }
            }
            Change::Edge(edge) => {
                self.mesh.edges.push(edge);
                self.levels.push(0.0);
            }
            Change::Step { edge, factor } => {
                if let Some(edge) = self.mesh.edges.get_mut(edge) {
                    edge.rate *= factor;
                }
            }
        }
    }

    fn now(edge: &Edge, place: usize, (episodes, effects): Active<'_>) -> Now {
        let effects = effects.iter().filter(|(_, effect)| effect.is_on(edge)).copied().collect();
        let mut now = Now { slow: 1.0, failing: 0.0, busy: 1.0, is_refused: false, effects };
        for episode in episodes {
            match episode.what {
                What::Slow { service, factor } if service == edge.destination => now.slow *= factor,
                What::Failing { service, share } if service == edge.destination => {
                    now.failing = share
                }
                What::Busy { edge, factor } if edge == place => now.busy *= factor,
                What::Refused { source, destination } => {
                    now.is_refused |= (source, destination) == (edge.source, edge.destination);
                }
                _ => {}
            }
        }
        now
    }

    /// What one edge adds to a minute.
    fn edge(&mut self, place: usize, minute: i64, active: Active<'_>, requests: &mut Vec<Request>) {
        let (Some(edge), Some(level)) = (self.mesh.edges.get(place), self.levels.get(place)) else {
            return;
        };
        let now = Self::now(edge, place, active);
        let mean = edge.rate * edge.rhythm.season(minute) * now.busy * level.exp();
        let times: Vec<At> = match edge.rhythm {
            Rhythm::Clock { every, phase, after } if minute % every == phase => {
                vec![At(At::of_minute(minute).0 + after + self.draw.whole(0, 2 * SECOND))]
            }
            Rhythm::Clock { .. } => Vec::new(),
            _ => {
                let count = self.draw.count(mean, edge.shape);
                (0..count).map(|_| within(minute, &mut self.draw)).collect()
            }
        };
        let service = self.mesh.service(edge.destination);
        let failing = (service.errors * self.draw.gamma(0.25) + now.failing).min(1.0);
        for at in times {
            let mut request = any(&self.mesh, edge, at, &mut self.draw);
            request.upstream_us = (request.upstream_us as f64 * now.slow) as u64;
            if let Some(person) = request.person {
                self.newest.push(person);
            }
            let fails = self.draw.happens(failing);
            if now.is_refused {
                request.refuse(NO_RIGHT);
            } else if fails {
                request.fail(if now.slow > 1.0 { 504 } else { 503 });
            }
            if let Some(request) = suffer(request, &now.effects, &mut self.harm) {
                if request.status >= 500 && self.draw.happens(RETRIED) {
                    requests.push(request.retried(&mut self.draw));
                }
                requests.push(request);
            }
        }
        for (attack, effect) in &now.effects {
            let (more, larger) = match effect.harm {
                Harm::More { factor, larger } => (edge.rate * (factor - 1.0), larger),
                Harm::Grown(factor) => (mean * (factor - 1.0), 1.0),
                _ => continue,
            };
            for _ in 0..self.harm.count(more, edge.shape) {
                let at = within(minute, &mut self.harm);
                let mut request = any(&self.mesh, edge, at, &mut self.harm);
                request.answered = (request.answered as f64 * larger) as u64;
                request.person = request.person.map(Person::of_one_gateway);
                request.attack = Some(*attack);
                requests.push(request);
            }
        }
        let surplus = self.newest.len().saturating_sub(NEWEST);
        self.newest.drain(..surplus);
    }

    /// A stolen token is that of somebody who was there just now.
    fn steal(&mut self, request: &mut Request) {
        let Some(wanted) = request.person else { return };
        if wanted.number == Person::NEWEST {
            let mut of_gateway =
                self.newest.iter().rev().filter(|person| person.gateway == wanted.gateway);
            request.person = of_gateway.next().copied().or(Some(Person { number: 1, ..wanted }));
        }
    }
}

fn within(minute: i64, draw: &mut Draw) -> At {
    At(At::of_minute(minute).0 + draw.whole(0, MINUTE - 1))
}

/// A usual request of an edge.
fn any(mesh: &Mesh, edge: &Edge, at: At, draw: &mut Draw) -> Request {
    let chosen = draw.weighted(edge.uses.iter().map(|(_, weight)| *weight));
    let route = edge.uses.get(chosen).map_or(0, |(route, _)| *route);
    let mut request = Request::usual(mesh, (edge.source, edge.destination), route, at, draw);
    if edge.tokens {
        request.person = Some(Person::draw(edge.source, draw));
    }
    request
}

/// What attacks make of a usual request; nothing is left of it where a caller is silenced.
fn suffer(mut request: Request, effects: &[(usize, Effect)], harm: &mut Draw) -> Option<Request> {
    for (attack, effect) in effects {
        match effect.harm {
            Harm::Silence => return None,
            Harm::Slow(factor) => {
                request.upstream_us = (request.upstream_us as f64 * factor) as u64;
                request.attack = Some(*attack);
            }
            Harm::Fails(share) if request.status < 500 && harm.happens(share) => {
                request.fail(500);
                request.attack = Some(*attack);
            }
            Harm::Fails(_) | Harm::More { .. } | Harm::Grown(_) => {}
        }
    }
    Some(request)
}
