//! Attacks that are requests of their own, in the name of a workload whose identity was taken.

use super::{Attack, Grade, Plan, TRIES, by_requests, is_probe};
use crate::weeks::clock::{At, DAY, MINUTE, SECOND, is_weekend};
use crate::weeks::mesh::Edge;
use crate::weeks::request::{NO_RIGHT, Person, Refused, Request};

impl Plan<'_> {
    fn ask(&mut self, pair: (usize, usize), route: usize, at: At) -> Request {
        Request::usual(self.mesh, pair, route, at, &mut self.draw)
    }

    /// Several of one route within minutes.
    fn several(
        &mut self,
        pair: (usize, usize),
        route: usize,
        from: i64,
        length: i64,
        count: usize,
    ) -> Vec<Request> {
        self.times(from, length, count).into_iter().map(|at| self.ask(pair, route, at)).collect()
    }

    /// A service that a caller never calls.
    fn stranger(&mut self, source: usize, namespaces: &[&str]) -> Option<usize> {
        (0..TRIES).find_map(|_| {
            let destination = self.service(namespaces)?;
            let has_routes =
                self.mesh.service(destination).routes.iter().any(|r| !is_probe(&r.pattern));
            let is_new = source != destination && !self.known.contains(&(source, destination));
            (is_new && has_routes).then_some(destination)
        })
    }

    /// One request to each of several services, of which a share is refused.
    fn probes(&mut self, source: usize, times: Vec<At>, refused: f64) -> Vec<Request> {
        let mut requests = Vec::new();
        for at in times {
            let Some(destination) =
                self.stranger(source, &["shop", "data", "ops", "access", "batch"])
            else {
                continue;
            };
            let Some(route) = self.route(destination, |_, route| !route.is_rare) else { continue };
            let mut request = self.ask((source, destination), route, at);
            if self.draw.happens(refused) {
                request.refuse(NO_RIGHT);
            }
            requests.push(request);
        }
        requests
    }
}

fn pair(edge: &Edge) -> (usize, usize) {
    (edge.source, edge.destination)
}

fn uses(edge: &Edge, place: usize) -> bool {
    edge.uses.iter().any(|(used, _)| *used == place)
}

/// A route that the caller may use and never did.
pub(super) fn unusual_route(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let is_rare = grade == Grade::Plain;
    for _ in 0..TRIES {
        let edge = plan.edge(0..80, |_| true)?;
        let others = plan.mesh.edges.iter().filter(|other| pair(other) == pair(edge));
        let used: Vec<usize> =
            others.flat_map(|edge| edge.uses.iter().map(|(place, _)| *place)).collect();
        let Some(route) = plan.route(edge.destination, |place, route| {
            !used.contains(&place) && route.is_rare == is_rare
        }) else {
            continue;
        };
        let length = grade.of([10, 30, 240]);
        let from = plan.minute(length);
        let requests = plan.several(pair(edge), route, from, length, grade.of([10, 5, 2]));
        return by_requests("unusual_route", grade, requests);
    }
    None
}

/// A service that the caller may call and never did.
pub(super) fn unusual_edge(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let source = plan.service(&["shop", "ops"])?;
    let destination = plan.stranger(source, &["shop", "data"])?;
    let route = plan.route(destination, |_, route| !route.is_rare)?;
    let length = grade.of([10, 30, 120]);
    let from = plan.minute(length);
    let requests = plan.several((source, destination), route, from, length, grade.of([8, 4, 2]));
    by_requests("unusual_edge", grade, requests)
}

pub(super) fn lateral_fast(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let source = plan.service(&["shop", "edge"])?;
    let length = grade.of([2, 4, 10]);
    let from = plan.minute(length);
    let times = plan.times(from, length, grade.of([15, 10, 6]));
    let requests = plan.probes(source, times, grade.of([0.9, 0.7, 0.3]));
    by_requests("lateral_fast", grade, requests)
}

/// One an hour.
pub(super) fn lateral_slow(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let source = plan.service(&["shop", "edge"])?;
    let mut at = At::of_minute(plan.minute(15 * 60));
    let times = (0..grade.of([12, 10, 8])).map(|_| {
        at.0 += (60.0 * MINUTE as f64 * plan.draw.between(0.75, 1.25)) as i64;
        at
    });
    let times = times.collect();
    let requests = plan.probes(source, times, grade.of([0.8, 0.5, 0.2]));
    by_requests("lateral_slow", grade, requests)
}

/// An answer as no other.
pub(super) fn exfiltration_once(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    for _ in 0..TRIES {
        let edge = plan.edge(10..90, |_| true)?;
        let small = |place: usize, route: &crate::weeks::routes::Route| {
            uses(edge, place) && (500.0..50_000.0).contains(&route.answered.median)
        };
        let Some(route) = plan.route(edge.destination, small) else { continue };
        let from = plan.minute(10);
        let mut requests = plan.several(pair(edge), route, from, 10, grade.of([2, 1, 1]));
        for request in &mut requests {
            request.status = 200;
            request.answered = (grade.of([3e8, 4e7, 4e6]) * plan.draw.between(0.8, 1.3)) as u64;
        }
        return by_requests("exfiltration_once", grade, requests);
    }
    None
}

pub(super) fn exfiltration_upload(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    for _ in 0..TRIES {
        let edge = plan.edge(0..100, |_| true)?;
        let carries = |place: usize, route: &crate::weeks::routes::Route| {
            uses(edge, place) && (200.0..5_000.0).contains(&route.asked.median)
        };
        let Some(route) = plan.route(edge.destination, carries) else { continue };
        let length = grade.of([60, 90, 120]);
        let from = plan.minute(length);
        let mut requests = plan.several(pair(edge), route, from, length, grade.of([60, 25, 8]));
        for request in &mut requests {
            request.asked = (grade.of([2e7, 5e6, 5e5]) * plan.draw.between(0.6, 1.5)) as u64;
        }
        return by_requests("exfiltration_upload", grade, requests);
    }
    None
}

/// A usual request of a quiet edge, again and again, nearly by the clock.
pub(super) fn beacon(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let edge = plan.edge(50..120, |_| true)?;
    let route = plan.route(edge.destination, |place, _| uses(edge, place))?;
    let (seconds, jitter) = (grade.of([60.0, 120.0, 300.0]), grade.of([0.05, 0.1, 0.25]));
    let length = grade.of([240, 360, 480]);
    let mut at = At::of_minute(plan.minute(length));
    let end = At(at.0 + length * MINUTE);
    let mut requests = Vec::new();
    while at < end {
        requests.push(plan.ask(pair(edge), route, at));
        let gap = seconds * (1.0 + jitter * plan.draw.between(-1.0, 1.0));
        at.0 += (gap * SECOND as f64) as i64;
    }
    let mut attack = by_requests("beacon", grade, requests)?;
    attack.features = &["anomaly.regular"];
    Some(attack)
}

pub(super) fn credential_stuffing(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let gateway = plan.mesh.named(grade.of(["mobile-gateway", "web-gateway", "mobile-gateway"]));
    let identity = plan.mesh.named("identity");
    let login = plan.route(identity, |_, route| route.pattern == "/login")?;
    let length = grade.of([15, 30, 60]);
    let from = plan.minute(length);
    let count = grade.of([900, 600, 120]);
    let mut requests = plan.several((gateway, identity), login, from, length, count);
    for request in &mut requests {
        if plan.draw.happens(0.98) {
            request.fail(401);
        }
    }
    let mut attack = by_requests("credential_stuffing", grade, requests)?;
    attack.features = &["anomaly.more_requests", "anomaly.refusals"];
    Some(attack)
}

pub(super) fn path_scan(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    const WORDS: [&str; 12] = [
        "admin",
        "backup",
        "config",
        "console",
        "debug",
        "env",
        "internal",
        "old",
        "private",
        "server-status",
        "swagger",
        "test",
    ];
    let edge = plan.edge(0..100, |_| true)?;
    let route = plan.route(edge.destination, |_, _| true)?;
    let length = grade.of([5, 15, 60]);
    let from = plan.minute(length);
    let mut requests = plan.several(pair(edge), route, from, length, grade.of([150, 50, 15]));
    for (number, request) in requests.iter_mut().enumerate() {
        let word = WORDS.get(number % WORDS.len()).copied().unwrap_or_default();
        request.path = format!(
            "/{word}{}",
            if number < WORDS.len() { String::new() } else { number.to_string() }
        );
        (request.method, request.asked, request.route) = ("GET", 0, None);
        request.fail(404);
    }
    by_requests("path_scan", grade, requests)
}

/// A method that the caller never used there.
pub(super) fn method_misuse(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    for _ in 0..TRIES {
        let edge = plan.edge(0..80, |_| true)?;
        let Some(route) =
            plan.route(edge.destination, |place, r| uses(edge, place) && r.method == "GET")
        else {
            continue;
        };
        let routes = &plan.mesh.service(edge.destination).routes;
        let used = |method: &str| {
            routes.iter().enumerate().any(|(at, r)| uses(edge, at) && r.method == method)
        };
        let method = grade.of(["PROPFIND", "DELETE", "PATCH"]);
        if used(method) {
            continue;
        }
        let length = grade.of([5, 20, 120]);
        let from = plan.minute(length);
        let mut requests = plan.several(pair(edge), route, from, length, grade.of([8, 5, 2]));
        for request in &mut requests {
            request.method = method;
            request.fail(405);
        }
        return by_requests("method_misuse", grade, requests);
    }
    None
}

/// A token of somebody who was there just now, in the hands of a workload that usually shows none.
pub(super) fn token_theft(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let ingress = plan.mesh.named("ingress");
    let edge = plan.edge(0..100, |edge| !edge.tokens && edge.source != ingress)?;
    let route = plan.route(edge.destination, |place, _| uses(edge, place))?;
    let length = grade.of([5, 20, 60]);
    let from = plan.minute(length);
    let gateway = plan.mesh.named("web-gateway");
    let number = grade.of([Person::NEWEST, Person::NEWEST, 1_777]);
    let mut requests = plan.several(pair(edge), route, from, length, grade.of([10, 4, 2]));
    for request in &mut requests {
        request.person = Some(Person { gateway, number });
    }
    by_requests("token_theft", grade, requests)
}

/// A caller's key in use at an address that is none of its own.
pub(super) fn second_address(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let edge = plan.edge(0..100, |_| true)?;
    let route = plan.route(edge.destination, |place, _| uses(edge, place))?;
    let length = grade.of([10, 30, 60]);
    let from = plan.minute(length);
    let mut requests = plan.several(pair(edge), route, from, length, grade.of([40, 15, 4]));
    let address = format!("10.66.{}.{}", plan.draw.whole(0, 255), plan.draw.whole(1, 254));
    for request in &mut requests {
        request.from = Some(address.clone());
    }
    by_requests("second_address", grade, requests)
}

/// What is done from the desk by day, at three in the morning.
pub(super) fn off_hours_admin(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let admin = plan.mesh.named("admin-gateway");
    let desk = plan.mesh.edges.iter().filter(|edge| edge.source == admin);
    let desk: Vec<&Edge> = desk.collect();
    for _ in 0..TRIES {
        let edge = *plan.draw.one(&desk)?;
        let is_rare = grade == Grade::Plain;
        let fits = |place: usize, route: &crate::weeks::routes::Route| {
            if is_rare { route.is_rare && !uses(edge, place) } else { uses(edge, place) }
        };
        let Some(route) = plan.route(edge.destination, fits) else { continue };
        let day = plan.minute(DAY) / DAY;
        let from = day * DAY + plan.draw.whole(60, 240);
        if is_weekend(from) && grade == Grade::Weak {
            continue;
        }
        let requests = plan.several(pair(edge), route, from, 25, grade.of([12, 12, 4]));
        let mut attack = by_requests("off_hours_admin", grade, requests)?;
        attack.features = &["anomaly.more_requests"];
        return Some(attack);
    }
    None
}

/// Paths that lead elsewhere, all of which the proxy refuses.
pub(super) fn traversal(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    const TRIED: [(&str, &str); 4] = [
        ("/static/..%2f..%2fetc/passwd", "path_encoded_slash"),
        ("/objects/%2e%2e/%2e%2e/keys", "path_encoded_dot"),
        ("/../../etc/shadow", "path_above_root"),
        ("/shop;x=1/../admin", "path_semicolon"),
    ];
    let edge = plan.edge(0..100, |_| true)?;
    let route =
        plan.route(edge.destination, |_, route| route.method == "GET" || route.method == "POST")?;
    let length = grade.of([3, 20, 1]);
    let from = plan.minute(length);
    let mut requests = plan.several(pair(edge), route, from, length, grade.of([8, 4, 1]));
    for (number, request) in requests.iter_mut().enumerate() {
        let (path, reason) = TRIED.get(number % TRIED.len()).copied().unwrap_or_default();
        (request.method, request.path) = ("GET", path.to_owned());
        request.refuse(Refused("request", reason, 400));
    }
    by_requests("traversal", grade, requests)
}

/// A job that runs by night and calls two services calls many others by day, all of which it may.
pub(super) fn job_fan_out(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    let source = plan.mesh.named(grade.of(["cleaner", "mailer", "night-export"]));
    let day = plan.minute(DAY) / DAY;
    let from = day * DAY + plan.draw.whole(11 * 60, 22 * 60);
    let times = plan.times(from, 30, grade.of([16, 8, 4]));
    let requests = plan.probes(source, times, 0.0);
    by_requests("job_fan_out", grade, requests)
}

/// Things read one after the other, by a caller that reads them now and then.
pub(super) fn scraping(plan: &mut Plan<'_>, grade: Grade) -> Option<Attack> {
    for _ in 0..TRIES {
        let edge = plan.edge(20..100, |_| true)?;
        let reads = |place: usize, route: &crate::weeks::routes::Route| {
            uses(edge, place) && route.method == "GET" && route.pattern.contains("{*}")
        };
        let Some(route) = plan.route(edge.destination, reads) else { continue };
        let length = grade.of([20, 40, 120]);
        let from = plan.minute(length);
        let mut requests =
            plan.several(pair(edge), route, from, length, grade.of([1_200, 400, 100]));
        let first = plan.draw.whole(10_000, 50_000) as usize;
        for (number, request) in requests.iter_mut().enumerate() {
            let pattern = request.route.clone().unwrap_or_default();
            request.path = pattern.replace("{*}", &(first + number).to_string());
        }
        let mut attack = by_requests("scraping", grade, requests)?;
        attack.features = &["anomaly.more_requests", "anomaly.download"];
        return Some(attack);
    }
    None
}
