-- Version 5: the log over the records, the chains of lanes and their signed heads, and the books.

ALTER TABLE records ADD COLUMN position INTEGER NOT NULL DEFAULT 0; -- in the lane's chain; 0: it stands in none
ALTER TABLE records ADD COLUMN salt BLOB;                           -- of the commitment in the log; NULL: erased

ALTER TABLE lanes ADD COLUMN position INTEGER NOT NULL DEFAULT 0;   -- the highest place in the chain that is here
ALTER TABLE lanes ADD COLUMN hash BLOB;                             -- the hash of that record
ALTER TABLE lanes ADD COLUMN updated_at INTEGER NOT NULL DEFAULT 0; -- when the last record arrived

-- Places in a lane's chain below the highest one whose records are not here.
CREATE TABLE holes (
    emitter     INTEGER NOT NULL,
    lane        INTEGER NOT NULL,
    first       INTEGER NOT NULL,
    last        INTEGER NOT NULL,
    minute      INTEGER NOT NULL,  -- of the record that showed it, in minutes since 1970
    seen_at     INTEGER NOT NULL,
    reported_at INTEGER,
    PRIMARY KEY (emitter, lane, first)
) STRICT, WITHOUT ROWID;

-- What emitters declare not to have kept.
CREATE TABLE gaps (
    record  INTEGER PRIMARY KEY,   -- the one that declares it
    emitter INTEGER NOT NULL,      -- the boot that is meant
    lane    INTEGER NOT NULL,
    reason  TEXT NOT NULL,
    count   INTEGER NOT NULL,
    first   INTEGER,
    last    INTEGER,
    minute  INTEGER NOT NULL
) STRICT;
CREATE INDEX gaps_lane ON gaps (emitter, lane);
CREATE INDEX gaps_minute ON gaps (minute);

-- Records by emitter and minute of their start. They outlive the records.
CREATE TABLE minutes (
    emitter INTEGER NOT NULL,
    minute  INTEGER NOT NULL,
    stored  INTEGER NOT NULL,
    PRIMARY KEY (emitter, minute)
) STRICT, WITHOUT ROWID;
CREATE INDEX minutes_minute ON minutes (minute);

-- Signed heads: the newest of each lane, and the last one of each minute.
CREATE TABLE heads (
    emitter     INTEGER NOT NULL,
    lane        INTEGER NOT NULL,
    position    INTEGER NOT NULL,
    hash        BLOB NOT NULL,
    emitted     INTEGER NOT NULL,
    open        INTEGER NOT NULL,
    lost        INTEGER NOT NULL,
    time_ms     INTEGER NOT NULL,
    signature   BLOB NOT NULL,
    certificate INTEGER NOT NULL,
    received_at INTEGER NOT NULL,  -- when this position was first heard of
    PRIMARY KEY (emitter, lane, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE head_certificates (
    id    INTEGER PRIMARY KEY,
    hash  BLOB NOT NULL UNIQUE,
    chain BLOB NOT NULL            -- picket.v1.SignedHeads without heads
) STRICT;

-- The log: a tile of level L and number N has the id L * 2^48 + N.
CREATE TABLE tiles (
    id     INTEGER PRIMARY KEY,
    hashes BLOB NOT NULL
) STRICT;
CREATE TABLE checkpoints (
    size    INTEGER PRIMARY KEY,
    root    BLOB NOT NULL,
    note    TEXT NOT NULL,
    made_at INTEGER NOT NULL
) STRICT;
CREATE TABLE witnesses (
    key       TEXT PRIMARY KEY,    -- as signed notes write it
    spiffe_id TEXT NOT NULL,
    size      INTEGER NOT NULL,    -- of the last tree that it cosigned, by its own word
    root      BLOB NOT NULL,
    note      TEXT NOT NULL,       -- that checkpoint, if it has shown it
    refusal   TEXT,                -- why it refuses the log
    heard_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE cosignatures (
    size    INTEGER NOT NULL,
    witness TEXT NOT NULL,
    line    TEXT NOT NULL,
    PRIMARY KEY (size, witness)
) STRICT, WITHOUT ROWID;

-- What is left of erased records: the commitment, and who asked for it when.
CREATE TABLE erased (
    record     INTEGER PRIMARY KEY,
    commitment BLOB NOT NULL,
    erased_at  INTEGER NOT NULL
) STRICT;

-- Rows that were found among the records and had not come through the log.
CREATE TABLE unlogged (
    id       INTEGER PRIMARY KEY,
    found_at INTEGER NOT NULL,
    record   INTEGER NOT NULL,
    emitter  INTEGER NOT NULL,
    lane     INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    bytes    BLOB NOT NULL
) STRICT;
