-- Version 6: alerts, and who is to be told of them.

CREATE TABLE alerts (
    number          INTEGER PRIMARY KEY,  -- in the order in which they were raised
    id              TEXT NOT NULL UNIQUE,
    fingerprint     TEXT NOT NULL,
    rule            TEXT NOT NULL,
    severity        INTEGER NOT NULL,     -- 0 informational … 4 critical
    alert           TEXT NOT NULL,        -- picket_detect::Alert as JSON, as it was told last
    traces          TEXT NOT NULL,        -- of its records, a JSON list
    generation      TEXT,                 -- of the policies in force when it was raised
    raised_at       INTEGER NOT NULL,
    changed_at      INTEGER NOT NULL,
    resolved_at     INTEGER,
    acknowledged_at INTEGER,
    acknowledged_by TEXT,
    note            TEXT
) STRICT;
CREATE INDEX alerts_open ON alerts (rule) WHERE resolved_at IS NULL;
CREATE INDEX alerts_fingerprint ON alerts (fingerprint);

-- What a sink is to be told. The key stays the same however often it is tried.
CREATE TABLE deliveries (
    number       INTEGER PRIMARY KEY,
    sink         TEXT NOT NULL,
    key          TEXT NOT NULL,
    notice       TEXT NOT NULL,           -- JSON
    made_at      INTEGER NOT NULL,
    due_at       INTEGER NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    delivered_at INTEGER,
    given_up_at  INTEGER,
    error        TEXT,
    UNIQUE (sink, key)
) STRICT;
CREATE INDEX deliveries_pending ON deliveries (sink, number) WHERE delivered_at IS NULL AND given_up_at IS NULL;
