-- Version 3: what records are searched by stands in a narrow table of its own, its texts in a dictionary; what sealed
-- segments of it hold is counted.

CREATE TABLE words (
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;
-- 0 stands for a text that got no number; the span has it.
INSERT INTO words (id, text) VALUES
    (0, '(other)'), (1, 'request'), (2, 'connection'), (3, 'event'), (4, 'inbound'), (5, 'outbound'), (6, 'allow'),
    (7, 'deny'), (8, 'GET'), (9, 'HEAD'), (10, 'POST'), (11, 'PUT'), (12, 'DELETE'), (13, 'CONNECT'), (14, 'OPTIONS'),
    (15, 'TRACE'), (16, 'PATCH');

CREATE TABLE facts (
    id          INTEGER PRIMARY KEY, -- that of the record
    time_ns     INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    kind        INTEGER NOT NULL,    -- this and all further ones without a unit: words
    event       INTEGER,
    direction   INTEGER,
    emitter     INTEGER NOT NULL,
    source      INTEGER,
    destination INTEGER,
    route       INTEGER,
    method      INTEGER,
    status      INTEGER,             -- the number itself
    decision    INTEGER,
    policy      INTEGER,
    reason      INTEGER,
    dry_run     INTEGER NOT NULL,    -- 1: dry-run policies would have decided otherwise
    path        TEXT,
    decision_id TEXT,                -- NULL: the span in hexadecimal
    trace       BLOB NOT NULL,
    span        BLOB NOT NULL
) STRICT;
-- By block of rows, so that what is inserted stays among the pages of one block however random it is.
CREATE INDEX facts_trace ON facts (id >> 16, trace);
CREATE INDEX facts_span ON facts (id >> 16, span);
CREATE INDEX facts_decision_id ON facts (decision_id) WHERE decision_id IS NOT NULL;

-- Segments (id >> 15) that get no more records.
CREATE TABLE sealed (
    segment  INTEGER PRIMARY KEY,
    records  INTEGER NOT NULL,
    first_ns INTEGER NOT NULL,
    last_ns  INTEGER NOT NULL
) STRICT;

-- How many records of a sealed segment have the same facts.
CREATE TABLE tallies (
    segment     INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    kind        INTEGER NOT NULL,
    event       INTEGER,
    direction   INTEGER,
    emitter     INTEGER NOT NULL,
    source      INTEGER,
    destination INTEGER,
    route       INTEGER,
    method      INTEGER,
    status      INTEGER,
    decision    INTEGER,
    policy      INTEGER,
    reason      INTEGER,
    dry_run     INTEGER NOT NULL,
    records     INTEGER NOT NULL,
    first_id    INTEGER NOT NULL,
    last_id     INTEGER NOT NULL,
    first_ns    INTEGER NOT NULL,
    last_ns     INTEGER NOT NULL,
    shortest_us INTEGER NOT NULL,
    longest_us  INTEGER NOT NULL,
    durations   BLOB NOT NULL,       -- a histogram
    PRIMARY KEY (segment, number)
) STRICT, WITHOUT ROWID;

-- Retention: every record up to this one was removed, and how many that were.
CREATE TABLE pruned (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    through INTEGER NOT NULL,
    records INTEGER NOT NULL
) STRICT;
INSERT INTO pruned (one, through, records) VALUES (1, 0, 0);
