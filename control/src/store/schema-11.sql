-- Version 11: what profiles have learnt.

CREATE TABLE profiles (
    only     INTEGER PRIMARY KEY CHECK (only = 1),
    cursor   INTEGER NOT NULL, -- learnt from the log up to this entry
    saved_at INTEGER NOT NULL,
    state    BLOB NOT NULL
) STRICT;
