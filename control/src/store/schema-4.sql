-- Version 4: the export may send a share of the traces, each whole or not at all.

CREATE TABLE notable_spans (       -- spans for whose sake their trace is exported
    trace  BLOB NOT NULL,
    record INTEGER NOT NULL,       -- records.id
    PRIMARY KEY (trace, record)
) STRICT, WITHOUT ROWID;
CREATE INDEX notable_spans_record ON notable_spans (record);

CREATE TABLE export_decided (      -- what was known when rows of `records` were decided on
    last    INTEGER PRIMARY KEY,   -- the rows from `first` to this one …
    first   INTEGER NOT NULL,
    horizon INTEGER NOT NULL       -- … by the notable spans among the rows up to this one
) STRICT;

ALTER TABLE export_cursors ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0; -- spans that were not sampled
ALTER TABLE export_cursors ADD COLUMN sampled_after INTEGER;              -- rows up to this one all go; none: all do
