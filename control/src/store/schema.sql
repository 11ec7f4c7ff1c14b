-- Version 1. Times are milliseconds since 1970 unless a name says otherwise.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE join_tokens (
    hash       BLOB PRIMARY KEY,   -- SHA-256 of the token; the token itself is nowhere
    spiffe_id  TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at    INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE certificates (
    serial     TEXT PRIMARY KEY,
    spiffe_id  TEXT NOT NULL,
    issued_at  INTEGER NOT NULL,
    not_after  INTEGER NOT NULL,
    renewed_by TEXT,               -- serial of the certificate that replaced it
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX certificates_not_after ON certificates (not_after);

CREATE TABLE operators (
    serial     TEXT PRIMARY KEY,
    spiffe_id  TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    not_after  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE instances (
    key          TEXT PRIMARY KEY, -- SPIFFE ID and announced addresses
    last_contact INTEGER NOT NULL,
    state        TEXT NOT NULL     -- JSON
) STRICT, WITHOUT ROWID;

CREATE TABLE policy_set (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    generation TEXT NOT NULL,
    saved_at   INTEGER NOT NULL,
    documents  TEXT NOT NULL       -- JSON
) STRICT;

CREATE TABLE emitters (
    id        INTEGER PRIMARY KEY,
    boot      TEXT NOT NULL UNIQUE, -- one boot, one emitter
    spiffe_id TEXT NOT NULL
) STRICT;

CREATE TABLE lanes (
    emitter INTEGER NOT NULL,
    lane    INTEGER NOT NULL,
    stored  INTEGER NOT NULL,      -- records that are here
    highest INTEGER NOT NULL,      -- the highest sequence among them
    PRIMARY KEY (emitter, lane)
) STRICT, WITHOUT ROWID;

CREATE TABLE resources (
    id    INTEGER PRIMARY KEY,
    hash  BLOB NOT NULL UNIQUE,
    bytes BLOB NOT NULL            -- opentelemetry.proto.resource.v1.Resource, as it was received
) STRICT;

CREATE TABLE records (
    id          INTEGER PRIMARY KEY AUTOINCREMENT, -- order of arrival; never used twice
    emitter     INTEGER NOT NULL,
    lane        INTEGER NOT NULL,
    sequence    INTEGER NOT NULL,
    resource    INTEGER NOT NULL,
    time_ns     INTEGER NOT NULL,
    trace       BLOB NOT NULL,
    span        BLOB NOT NULL,
    kind        TEXT NOT NULL,
    event       TEXT,
    direction   TEXT,
    source      TEXT,
    destination TEXT,
    method      TEXT,
    path        TEXT,
    status      INTEGER,
    decision    TEXT,
    decision_id TEXT,
    policy      TEXT,
    reason      TEXT,
    bytes       BLOB NOT NULL      -- opentelemetry.proto.trace.v1.Span, as it was received
) STRICT;
CREATE UNIQUE INDEX records_sequence ON records (emitter, lane, sequence);
CREATE INDEX records_time ON records (time_ns);
CREATE INDEX records_trace ON records (trace);
CREATE INDEX records_decision_id ON records (decision_id) WHERE decision_id IS NOT NULL;

CREATE TABLE export_cursors (
    name     TEXT PRIMARY KEY,
    position INTEGER NOT NULL,     -- every record up to this one was sent or skipped
    sent     INTEGER NOT NULL,
    skipped  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
