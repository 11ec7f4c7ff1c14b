//! Fifty services of a shop: what they serve, and who calls whom how often.

use super::clock;
use super::draw::Draw;
use super::routes::{Route, Serves, routes};

/// Name, namespace, what it serves, replicas.
const SERVICES: [(&str, &str, Serves, usize); 50] = [
    ("ingress", "edge", Serves::Nothing, 3),
    ("web-gateway", "edge", Serves::Pages, 4),
    ("mobile-gateway", "edge", Serves::Pages, 4),
    ("partner-gateway", "edge", Serves::Pages, 2),
    ("admin-gateway", "edge", Serves::Pages, 1),
    ("identity", "access", Serves::Logins, 3),
    ("sessions", "access", Serves::Things("sessions"), 3),
    ("permissions", "access", Serves::Rights, 2),
    ("audit-trail", "access", Serves::Things("entries"), 2),
    ("catalog", "shop", Serves::Things("products"), 4),
    ("search", "shop", Serves::Answers("results"), 3),
    ("recommendations", "shop", Serves::Answers("recommendations"), 2),
    ("cart", "shop", Serves::Things("carts"), 3),
    ("checkout", "shop", Serves::Things("checkouts"), 2),
    ("orders", "shop", Serves::Things("orders"), 3),
    ("payments", "shop", Serves::Things("payments"), 2),
    ("fraud-check", "shop", Serves::Answers("scores"), 2),
    ("invoices", "shop", Serves::Things("invoices"), 1),
    ("shipping", "shop", Serves::Things("parcels"), 2),
    ("stock", "shop", Serves::Things("items"), 3),
    ("warehouse", "shop", Serves::Things("bins"), 1),
    ("pricing", "shop", Serves::Answers("prices"), 2),
    ("promotions", "shop", Serves::Answers("offers"), 1),
    ("reviews", "shop", Serves::Things("reviews"), 2),
    ("media", "shop", Serves::Objects, 3),
    ("support", "shop", Serves::Things("tickets"), 1),
    ("notifications", "shop", Serves::Messages, 2),
    ("email", "shop", Serves::Messages, 2),
    ("push", "shop", Serves::Messages, 1),
    ("feature-flags", "ops", Serves::Answers("flags"), 2),
    ("config", "ops", Serves::Rights, 1),
    ("reports", "ops", Serves::Things("reports"), 1),
    ("analytics", "ops", Serves::Answers("figures"), 1),
    ("users-db", "data", Serves::Rows, 2),
    ("orders-db", "data", Serves::Rows, 2),
    ("catalog-db", "data", Serves::Rows, 3),
    ("payments-db", "data", Serves::Rows, 2),
    ("stock-db", "data", Serves::Rows, 2),
    ("sessions-cache", "data", Serves::Rows, 3),
    ("search-index", "data", Serves::Rows, 2),
    ("events-store", "data", Serves::Rows, 2),
    ("object-store", "data", Serves::Objects, 3),
    ("warehouse-dw", "data", Serves::Rows, 1),
    ("night-export", "batch", Serves::Runs, 1),
    ("backup", "batch", Serves::Runs, 1),
    ("mailer", "batch", Serves::Runs, 1),
    ("reconciler", "batch", Serves::Runs, 1),
    ("cleaner", "batch", Serves::Runs, 1),
    ("scheduler", "ops", Serves::Nothing, 1),
    ("monitor", "ops", Serves::Nothing, 1),
];

/// Who calls whom, and how many times a minute on average when a day has 200,000 requests. Of `service/word` only those
/// routes are used that begin with the word.
const CALLS: &str = "
ingress > web-gateway 18, mobile-gateway 14, partner-gateway 3, admin-gateway 0.6
web-gateway > catalog 5, search 3, recommendations 2.5, cart 1.8, checkout 0.5, identity/login 0.5, identity/logout 0.1
web-gateway > sessions 5, media 3, reviews 1, promotions 0.8, support 0.05
mobile-gateway > catalog 4, search 2, recommendations 2, cart 1.2, checkout 0.4, identity/login 0.4, sessions 4
mobile-gateway > media 3, push 0.2, orders 0.6, promotions 0.4
partner-gateway > catalog 1, orders 0.5, stock 0.8, pricing 0.7, sessions 0.8, identity/token 0.1
admin-gateway > orders 0.15, permissions 0.06, config 0.03, support 0.2, reports 0.1, identity/users 0.1
catalog > catalog-db 5, pricing 3, stock 2, media 0.3
search > search-index 4, feature-flags 0.2
recommendations > events-store 1.5, catalog-db 1.2, feature-flags 0.2
cart > sessions-cache 2, pricing 1, promotions 0.5, stock 0.8
checkout > cart 0.6, orders 0.8, payments 0.7, fraud-check 0.6, shipping 0.4, promotions 0.3
orders > orders-db 2.5, stock 0.6, notifications 0.8, invoices 0.5, permissions/roles 0.2
payments > payments-db 1.2, fraud-check 0.3, audit-trail 0.7
fraud-check > events-store 0.5, users-db 0.3
invoices > object-store 0.4, email 0.3, orders-db 0.2
shipping > warehouse 0.4, notifications 0.1
stock > stock-db 2.5
warehouse > stock-db 0.5, object-store 0.05
pricing > catalog-db 1, feature-flags 0.1
promotions > catalog-db 0.4, users-db 0.1
reviews > events-store 0.3, users-db 0.2
media > object-store 3
notifications > email 0.4, push 0.3, users-db 0.3
identity > users-db 1.2, sessions-cache 0.8, audit-trail 0.5, email 0.05
sessions > sessions-cache 6
permissions > users-db 0.3, audit-trail 0.1
support > orders 0.08, email 0.05, object-store 0.02
reports > warehouse-dw 0.1, object-store 0.03
analytics > events-store 0.6, warehouse-dw 0.2
";

/// Jobs of the night: who calls whom, requests a night, from which minute of the day on, for how many minutes.
const NIGHTS: &str = "
backup > users-db/dump 6 90 80, orders-db/dump 8 95 80, catalog-db/dump 5 100 70, payments-db/dump 4 110 60
night-export > orders-db/query 160 130 45, warehouse-dw/write 80 140 45, object-store/objects 12 170 20
mailer > users-db/query 150 390 60, email/send 400 392 70
cleaner > sessions-cache/write 60 240 20, object-store/objects 30 250 20
";

/// What runs by the clock: who calls whom, every so many minutes.
const CRONS: &str = "
scheduler > reports 60, invoices 10, analytics 15, reconciler/run 30, night-export/run 1440, backup/run 1440
scheduler > mailer/run 1440, cleaner/run 1440, promotions 20
reconciler > payments-db 30, orders-db 30
search > config 5
feature-flags > config 2
";

/// Requests a minute that the monitor makes of each service.
const PROBES_EVERY: i64 = 5;

pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) namespace: &'static str,
    pub(crate) id: String,
    pub(crate) replicas: usize,
    pub(crate) routes: Vec<Route>,
    /// Share of requests that end in 5xx on a usual day.
    pub(crate) errors: f64,
    /// How slow it is beside others.
    pub(crate) pace: f64,
}

/// When an edge is used.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rhythm {
    /// As people are awake: hour of the peak, how far it swings, how much of it is left at the weekend.
    People { peak: f64, swing: f64, weekend: f64 },
    /// In a few hours of the night: from a minute of the day, for so many.
    Night { from: i64, length: i64 },
    /// By the clock: every so many minutes, so many nanoseconds after the minute.
    Clock { every: i64, phase: i64, after: i64 },
}

impl Rhythm {
    /// How much more or less than on average there is at a minute.
    pub(crate) fn season(self, minute: i64) -> f64 {
        match self {
            Self::People { peak, swing, weekend } => {
                let day = (std::f64::consts::TAU * (clock::hour(minute) - peak) / 24.0).cos();
                let half =
                    (2.0 * std::f64::consts::TAU * (clock::hour(minute) - peak) / 24.0).cos();
                let of_day = (1.0 + swing * day + 0.25 * swing * half).max(0.02);
                if clock::is_weekend(minute) { of_day * weekend } else { of_day }
            }
            Self::Night { from, length } => {
                let now = minute.rem_euclid(clock::DAY);
                f64::from((from..from + length).contains(&now))
            }
            Self::Clock { .. } => 0.0,
        }
    }
}

pub(crate) struct Edge {
    pub(crate) source: usize,
    pub(crate) destination: usize,
    /// Requests a minute, on average over the day, or while a job runs.
    pub(crate) rate: f64,
    /// Of the gamma distribution by which minutes differ.
    pub(crate) shape: f64,
    pub(crate) rhythm: Rhythm,
    /// Places of the callee's routes, with weights.
    pub(crate) uses: Vec<(usize, f64)>,
    /// Requests carry the tokens of people.
    pub(crate) tokens: bool,
}

pub(crate) struct Mesh {
    pub(crate) services: Vec<Service>,
    pub(crate) edges: Vec<Edge>,
}

impl Mesh {
    /// With so many requests a day, more or less.
    pub(crate) fn new(seed: u64, per_day: f64) -> Self {
        let mut draw = Draw::apart(seed, 1);
        let services = SERVICES
            .iter()
            .map(|&(name, namespace, serves, replicas)| Service {
                name,
                namespace,
                id: format!("spiffe://shop.example/ns/{namespace}/sa/{name}"),
                replicas,
                routes: routes(serves, &mut draw),
                errors: draw.log_normal(0.0015, 0.7),
                pace: draw.log_normal(1.0, 0.4),
            })
            .collect();
        let mut mesh = Self { services, edges: Vec::new() };
        let scale = per_day / 200_000.0;
        for (source, callee, word, figures) in lines(CALLS) {
            let rate = figures.first().copied().unwrap_or_default() * scale;
            let rhythm = mesh.people(source, &mut draw);
            mesh.connect(source, (callee, word), rate, rhythm, &mut draw);
        }
        for (source, callee, word, figures) in lines(NIGHTS) {
            let &[requests, from, length] = figures.as_slice() else { continue };
            let rhythm = Rhythm::Night { from: from as i64, length: length as i64 };
            let rate = requests / length * scale.max(0.2);
            mesh.connect(source, (callee, word), rate, rhythm, &mut draw);
        }
        for (source, callee, word, figures) in lines(CRONS) {
            let every = figures.first().copied().unwrap_or(60.0) as i64;
            mesh.by_clock(source, (callee, word), every, &mut draw);
        }
        let every = (PROBES_EVERY as f64 / scale.clamp(0.05, 1.0)) as i64;
        for (name, ..) in SERVICES.iter().filter(|(name, ..)| *name != "monitor") {
            mesh.by_clock("monitor", (name, "healthz"), every, &mut draw);
            mesh.by_clock("monitor", (name, "metrics"), every * 4, &mut draw);
        }
        mesh
    }

    /// The place of a service.
    pub(crate) fn named(&self, name: &str) -> usize {
        self.services.iter().position(|service| service.name == name).unwrap_or_default()
    }

    pub(crate) fn service(&self, place: usize) -> &Service {
        self.services.get(place).unwrap()
    }

    pub(crate) fn calls(&self, source: usize, destination: usize) -> bool {
        self.edges.iter().any(|edge| edge.source == source && edge.destination == destination)
    }

    /// How people's use of a caller goes through the day.
    fn people(&self, source: &str, draw: &mut Draw) -> Rhythm {
        let (peak, swing, weekend) = match source {
            "mobile-gateway" => (19.5, 0.7, 1.1),
            "partner-gateway" => (11.0, 0.85, 0.25),
            "admin-gateway" | "support" | "reports" => (12.5, 1.05, 0.06),
            "warehouse" | "analytics" => (11.0, 0.6, 0.3),
            _ => (15.0, 0.65, 0.65),
        };
        Rhythm::People {
            peak: peak + draw.between(-1.5, 1.5),
            swing: swing * draw.between(0.85, 1.0),
            weekend: weekend * draw.between(0.85, 1.15),
        }
    }

    fn by_clock(&mut self, source: &str, callee: (&str, &str), every: i64, draw: &mut Draw) {
        let phase = draw.whole(0, every.min(60) - 1) + if every >= clock::DAY { 60 } else { 0 };
        let rhythm = Rhythm::Clock { every, phase, after: draw.whole(0, 59) * clock::SECOND };
        self.connect(source, callee, 1.0, rhythm, draw);
    }

    fn connect(
        &mut self,
        source: &str,
        callee: (&str, &str),
        rate: f64,
        rhythm: Rhythm,
        draw: &mut Draw,
    ) {
        let (source, destination) = (self.named(source), self.named(callee.0));
        let edge = self.edge(source, destination, callee.1, rate, rhythm, draw);
        self.edges.push(edge);
    }

    /// An edge that uses some of the callee's routes, or all those that begin with a word.
    pub(crate) fn edge(
        &self,
        source: usize,
        destination: usize,
        word: &str,
        rate: f64,
        rhythm: Rhythm,
        draw: &mut Draw,
    ) -> Edge {
        let all = &self.service(destination).routes;
        let of_word = |route: &Route| route.pattern.trim_start_matches('/').starts_with(word);
        let fits = |route: &Route| if word.is_empty() { !route.is_rare } else { of_word(route) };
        let mut places: Vec<usize> =
            all.iter().enumerate().filter(|(_, route)| fits(route)).map(|(at, _)| at).collect();
        if word.is_empty() {
            let keep = draw.whole(1, 4) as usize;
            while places.len() > keep.max(2) {
                let out = draw.below(places.len());
                places.remove(out);
            }
        }
        let mut uses: Vec<(usize, f64)> =
            places.iter().map(|place| (*place, draw.log_normal(1.0, 0.9))).collect();
        // A long tail: what is asked for once in some hundreds.
        if word.is_empty() && draw.happens(0.25) {
            let mut others =
                all.iter().enumerate().filter(|(at, route)| !route.is_rare && !places.contains(at));
            if let Some((place, _)) = others.next_back() {
                uses.push((place, 0.004 * uses.iter().map(|(_, weight)| weight).sum::<f64>()));
            }
        }
        let tokens = matches!(
            self.service(source).name,
            "web-gateway" | "mobile-gateway" | "partner-gateway"
        );
        Edge { source, destination, rate, shape: draw.log_normal(2.5, 0.5), rhythm, uses, tokens }
    }
}

/// `caller > callee/word figure figure, …`, a line each.
fn lines(
    table: &'static str,
) -> impl Iterator<Item = (&'static str, &'static str, &'static str, Vec<f64>)> {
    table.lines().filter_map(|line| line.split_once(" > ")).flat_map(|(source, calls)| {
        calls.split(", ").map(move |call| {
            let mut words = call.split(' ');
            let callee = words.next().unwrap_or_default();
            let (callee, word) = callee.split_once('/').unwrap_or((callee, ""));
            (source, callee, word, words.filter_map(|figure| figure.parse().ok()).collect())
        })
    })
}
