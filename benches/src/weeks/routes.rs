//! What a service answers: methods, patterns of paths, sizes and times.

use super::draw::Draw;

/// The kinds of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    /// It only calls others.
    Nothing,
    Pages,
    Logins,
    /// Who may do what.
    Rights,
    /// Things with an id, read and written.
    Things(&'static str),
    /// Something that is computed.
    Answers(&'static str),
    Messages,
    Objects,
    Rows,
    Runs,
}

/// A log-normal size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) median: f64,
    pub(crate) deviation: f64,
}

impl Size {
    pub(crate) fn draw(self, draw: &mut Draw) -> u64 {
        if self.median <= 0.0 { 0 } else { draw.log_normal(self.median, self.deviation) as u64 }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) method: &'static str,
    /// As `http.route` has it; `{*}` is a part that differs.
    pub(crate) pattern: String,
    pub(crate) asked: Size,
    pub(crate) answered: Size,
    /// Median, of the time to the head of the response.
    pub(crate) upstream_us: f64,
    /// Share that is answered 404.
    pub(crate) missing: f64,
    /// Share that is answered 401.
    pub(crate) unauthorized: f64,
    /// Used by those alone who have reason to.
    pub(crate) is_rare: bool,
}

/// Method, pattern, bytes asked and answered, microseconds, whether it is rare.
type Row = (&'static str, &'static str, f64, f64, f64, bool);

const PROBES: [Row; 2] =
    [("GET", "/healthz", 0.0, 2.0, 400.0, true), ("GET", "/metrics", 0.0, 18_000.0, 2_000.0, true)];
const PAGES: [Row; 6] = [
    ("GET", "/shop/{*}", 0.0, 14_000.0, 60_000.0, false),
    ("GET", "/static/{*}", 0.0, 30_000.0, 4_000.0, false),
    ("POST", "/shop/cart", 400.0, 1_500.0, 50_000.0, false),
    ("GET", "/account/{*}", 0.0, 5_000.0, 45_000.0, false),
    ("POST", "/account/session", 300.0, 700.0, 90_000.0, false),
    ("GET", "/admin/console", 0.0, 9_000.0, 40_000.0, true),
];
const LOGINS: [Row; 7] = [
    ("POST", "/login", 220.0, 900.0, 80_000.0, false),
    ("POST", "/token", 350.0, 1_200.0, 60_000.0, false),
    ("GET", "/keys", 0.0, 1_800.0, 1_000.0, false),
    ("POST", "/logout", 60.0, 20.0, 5_000.0, false),
    ("GET", "/users/{*}", 0.0, 1_400.0, 9_000.0, false),
    ("PUT", "/users/{*}", 600.0, 300.0, 15_000.0, true),
    ("GET", "/users", 0.0, 60_000.0, 120_000.0, true),
];
const RIGHTS: [Row; 6] = [
    ("GET", "/roles/{*}", 0.0, 800.0, 3_000.0, false),
    ("GET", "/settings/{*}", 0.0, 1_500.0, 2_000.0, false),
    ("PUT", "/settings/{*}", 700.0, 100.0, 8_000.0, true),
    ("PUT", "/roles/{*}", 400.0, 100.0, 9_000.0, true),
    ("POST", "/admin/grants", 300.0, 150.0, 12_000.0, true),
    ("GET", "/admin/grants", 0.0, 7_000.0, 9_000.0, true),
];
const THINGS: [Row; 8] = [
    ("GET", "/things", 0.0, 9_000.0, 18_000.0, false),
    ("GET", "/things/{*}", 0.0, 1_600.0, 7_000.0, false),
    ("POST", "/things", 900.0, 350.0, 22_000.0, false),
    ("PUT", "/things/{*}", 700.0, 250.0, 16_000.0, false),
    ("GET", "/things/{*}/history", 0.0, 4_000.0, 14_000.0, false),
    ("POST", "/things/search", 200.0, 6_000.0, 35_000.0, false),
    ("DELETE", "/things/{*}", 0.0, 0.0, 12_000.0, true),
    ("GET", "/things/export", 0.0, 250_000.0, 400_000.0, true),
];
const ANSWERS: [Row; 4] = [
    ("GET", "/things", 0.0, 3_000.0, 12_000.0, false),
    ("POST", "/things", 700.0, 1_800.0, 25_000.0, false),
    ("GET", "/things/{*}", 0.0, 1_000.0, 8_000.0, false),
    ("POST", "/things/explain", 500.0, 9_000.0, 60_000.0, true),
];
const MESSAGES: [Row; 4] = [
    ("POST", "/send", 2_500.0, 120.0, 30_000.0, false),
    ("GET", "/messages/{*}", 0.0, 1_200.0, 9_000.0, false),
    ("GET", "/templates/{*}", 0.0, 6_000.0, 4_000.0, false),
    ("PUT", "/templates/{*}", 6_000.0, 80.0, 12_000.0, true),
];
const OBJECTS: [Row; 5] = [
    ("GET", "/objects/{*}", 0.0, 45_000.0, 15_000.0, false),
    ("PUT", "/objects/{*}", 90_000.0, 150.0, 40_000.0, false),
    ("HEAD", "/objects/{*}", 0.0, 0.0, 3_000.0, false),
    ("GET", "/objects", 0.0, 12_000.0, 25_000.0, true),
    ("DELETE", "/objects/{*}", 0.0, 0.0, 8_000.0, true),
];
const ROWS: [Row; 5] = [
    ("POST", "/query", 350.0, 3_500.0, 5_000.0, false),
    ("POST", "/write", 900.0, 60.0, 8_000.0, false),
    ("GET", "/rows/{*}", 0.0, 1_100.0, 2_000.0, false),
    ("GET", "/dump", 0.0, 45_000_000.0, 3_000_000.0, true),
    ("POST", "/schema", 900.0, 100.0, 50_000.0, true),
];
const RUNS: [Row; 2] = [
    ("POST", "/run", 120.0, 80.0, 15_000.0, false),
    ("GET", "/run/{*}", 0.0, 400.0, 3_000.0, false),
];

/// The routes of a service of a kind; no two services have the same figures.
pub(crate) fn routes(serves: Serves, draw: &mut Draw) -> Vec<Route> {
    let (rows, things): (&[Row], &str) = match serves {
        Serves::Nothing => (&[], ""),
        Serves::Pages => (&PAGES, ""),
        Serves::Logins => (&LOGINS, ""),
        Serves::Rights => (&RIGHTS, ""),
        Serves::Things(name) => (&THINGS, name),
        Serves::Answers(name) => (&ANSWERS, name),
        Serves::Messages => (&MESSAGES, ""),
        Serves::Objects => (&OBJECTS, ""),
        Serves::Rows => (&ROWS, ""),
        Serves::Runs => (&RUNS, ""),
    };
    rows.iter().chain(&PROBES).map(|row| route(row, things, draw)).collect()
}

fn route(row: &Row, things: &str, draw: &mut Draw) -> Route {
    let &(method, pattern, asked, answered, upstream_us, is_rare) = row;
    let size = |median: f64, draw: &mut Draw| Size {
        median: median * draw.log_normal(1.0, 0.4),
        deviation: if median > 1_000_000.0 { 0.35 } else { draw.between(0.3, 0.9) },
    };
    let reads_one = method == "GET" && pattern.contains("{*}");
    Route {
        method,
        pattern: pattern.replace("things", things),
        asked: size(asked, draw),
        answered: size(answered, draw),
        upstream_us: upstream_us * draw.log_normal(1.0, 0.3),
        missing: if reads_one { draw.between(0.002, 0.03) } else { 0.0 },
        unauthorized: if pattern == "/login" { 0.06 } else { 0.0 },
        is_rare,
    }
}

/// A route that a new version brings.
pub(crate) fn further(number: usize, draw: &mut Draw) -> Route {
    const NAMES: [&str; 6] = ["summary", "bulk", "preview", "related", "status", "suggestions"];
    let name = NAMES.get(number % NAMES.len()).copied().unwrap_or_default();
    let row: Row = if draw.happens(0.6) {
        ("GET", "/v2/things/{*}", 0.0, 2_000.0, 9_000.0, false)
    } else {
        ("POST", "/v2/things", 600.0, 900.0, 20_000.0, false)
    };
    route(&row, name, draw)
}
