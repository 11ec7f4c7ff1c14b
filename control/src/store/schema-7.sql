-- Version 7: what is done about alerts.

CREATE TABLE responses (
    number   INTEGER PRIMARY KEY,   -- in the order in which they were made
    id       TEXT NOT NULL UNIQUE,
    alert    TEXT NOT NULL,
    rule     TEXT NOT NULL,
    title    TEXT NOT NULL,
    target   TEXT NOT NULL,         -- the SPIFFE ID that is quarantined
    state    TEXT NOT NULL,         -- suggested, active, reverted, expired, refused
    mode     TEXT NOT NULL,         -- suggest, act
    ttl_ms   INTEGER NOT NULL,
    made_at  INTEGER NOT NULL,
    acted_at INTEGER,
    acted_by TEXT,
    until    INTEGER,
    ended_at INTEGER,
    ended_by TEXT,
    why      TEXT
) STRICT;
CREATE INDEX responses_target ON responses (target, number);
CREATE INDEX responses_open ON responses (number) WHERE state IN ('suggested', 'active');
