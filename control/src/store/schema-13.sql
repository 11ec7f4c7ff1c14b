-- Version 13: rules that have raised more alerts than their budget, and what of it is told together.

ALTER TABLE alerts ADD COLUMN counted_at INTEGER;                -- when it was told of, or kept for a digest
ALTER TABLE alerts ADD COLUMN digest INTEGER NOT NULL DEFAULT 0; -- 1: it waits for its rule's next digest; 2: a digest has told of it
CREATE INDEX alerts_counted ON alerts (rule, counted_at) WHERE counted_at IS NOT NULL;

CREATE TABLE demoted (
    rule    TEXT PRIMARY KEY,
    since   INTEGER NOT NULL,
    told_at INTEGER NOT NULL -- when the last digest was made
) STRICT, WITHOUT ROWID;
