-- Version 8: silences.

CREATE TABLE silences (
    id      TEXT PRIMARY KEY,
    rule    TEXT,                    -- its id; NULL: of any rule
    fields  TEXT NOT NULL,           -- of the group: patterns by field, JSON
    until   INTEGER NOT NULL,
    author  TEXT NOT NULL,
    reason  TEXT NOT NULL,
    made_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE alerts ADD COLUMN silenced_by TEXT; -- the silence for whose sake nobody was told
