-- Version 10: episodes of alerts and those that flap; silences by severity.

ALTER TABLE alerts ADD COLUMN episode INTEGER NOT NULL DEFAULT 1; -- of its fingerprint, from 1
ALTER TABLE alerts ADD COLUMN told INTEGER NOT NULL DEFAULT 0;    -- 1: sinks are told that it fires
ALTER TABLE alerts ADD COLUMN flapping_since INTEGER;             -- when the first of those began that are held as one
ALTER TABLE alerts ADD COLUMN held INTEGER NOT NULL DEFAULT 0;    -- 1: it is the newest of those, and it is not quiet yet
UPDATE alerts SET
    told = silenced_by IS NULL,
    episode = (SELECT count(*) FROM alerts AS other
               WHERE other.fingerprint = alerts.fingerprint AND other.number <= alerts.number);
CREATE INDEX alerts_held ON alerts (number) WHERE held = 1;

ALTER TABLE silences ADD COLUMN severity TEXT; -- of this one alone. The rule is a pattern of its id or title
