//! What generated rules and events speak about: few names and few words, so that the two meet often.

/// Fields of texts.
pub const TEXTS: &[&str] = &[
    "url.path",
    "url.query",
    "http.request.method",
    "http.route",
    "picket.source",
    "picket.destination",
    "picket.decision",
    "picket.decision.reason",
    "picket.jwt.subject",
    "picket.policy",
    "server.address",
];
/// Fields of numbers.
pub const NUMBERS: &[&str] = &[
    "http.response.status_code",
    "duration_us",
    "http.request.body.size",
    "network.peer.port",
    "picket.gap.count",
];
/// Fields of `true` and `false`.
pub const BOOLEANS: &[&str] = &["picket.dry_run", "status.error"];
/// Fields of addresses.
pub const ADDRESSES: &[&str] = &["network.peer.address", "client.address"];
/// Fields that have several values.
pub const LISTS: &[&str] = &["picket.jwt.audiences", "picket.labels"];
/// What correlations group by and count.
pub const GROUPS: &[&str] = &["picket.source", "picket.destination", "network.peer.port"];

/// Values of texts, as events have them.
pub const WORDS: &[&str] = &[
    "GET",
    "/admin",
    "/api/v1/users",
    "/api/v1/users/42",
    "payments",
    "Orders",
    "spiffe://mesh.local/ns/shop/sa/cart",
    r"c:\windows\system32",
    r"\\host\share",
    "a*b",
    "what?",
    r"50\*2",
    "404",
    "4",
    "-1",
    "1.0",
    "1e3",
    "true",
    "yes",
    "null",
    "",
    " ",
    "two  words",
    "line one\nline two",
    "tab\there",
    "Straße",
    "STRASSE",
    "ΟΔΟΣ",
    "οδος",
    "İstanbul",
    "\u{212a}elvin",
    "ſ",
    "日本語",
    "é",
    "e\u{301}",
    "😀",
    "${jndi:ldap://x}",
    "' OR 1=1 --",
    "%2e%2e/",
    "key=value&key=other",
];

/// Regular expressions within the flavour that the specification names, and texts that each matches.
pub const EXPRESSIONS: &[(&str, &[&str])] = &[
    ("^/admin", &["/admin", "/admin/x"]),
    ("users/[0-9]+$", &["/api/v1/users/42", "users/1"]),
    ("ord(er|inal)s?", &["orders", "xordinalx"]),
    ("^[^/]+$", &["payments", "GET"]),
    ("a.b", &["a*b", "axb", "a\nb"]),
    ("^line two$", &["line one\nline two", "line two"]),
    ("^.*two$", &["line one\nline two", "two"]),
    ("[A-Z]{3,5}", &["GET", "STRASSE"]),
    ("stra.e", &["Straße", "STRAßE"]),
    ("^$", &["", "\n"]),
    ("k", &["k", "K", "\u{212a}"]),
    ("^[0-9]{3}$", &["404", "500"]),
];

/// Ranges of addresses, and addresses around their edges.
pub const RANGES: &[(&str, &[&str])] = &[
    ("10.0.0.0/8", &["10.0.0.0", "10.255.255.255", "11.0.0.0", "9.255.255.255"]),
    ("192.168.1.0/24", &["192.168.1.1", "192.168.2.0", "::ffff:192.168.1.1"]),
    ("127.0.0.1/32", &["127.0.0.1", "127.0.0.2"]),
    ("0.0.0.0/0", &["1.2.3.4", "::1", "no address"]),
    ("fd00::/8", &["fd00::1", "fe00::1", "FD00::A"]),
    ("2001:db8::/32", &["2001:db8::", "2001:db9::", "2001:DB8:0:0::1"]),
];

/// Numbers around which rules and events are.
pub const COUNTS: &[i64] = &[0, 1, 4, 42, 200, 404, 500, 1000, 65_535, -1];
