-- Version 9: what a response does, and each step of it.

ALTER TABLE responses ADD COLUMN plan TEXT NOT NULL -- what is done, JSON
    DEFAULT '{"action":"quarantine","of":"picket.source","mode":"suggest","ttl":900}';
ALTER TABLE responses ADD COLUMN issuer TEXT;       -- of the tokens whose subject is the target
ALTER TABLE responses ADD COLUMN place TEXT;        -- where it holds, JSON; NULL: everywhere
ALTER TABLE responses ADD COLUMN revoked TEXT NOT NULL DEFAULT '[]'; -- the revocations that it made: their ids, JSON

CREATE TABLE response_steps (
    number   INTEGER PRIMARY KEY,
    response TEXT NOT NULL,
    at       INTEGER NOT NULL,
    event    TEXT NOT NULL,  -- as in the audit trail
    refused  TEXT,           -- why it was not done, as a code
    actor    TEXT NOT NULL,
    detail   TEXT
) STRICT;
CREATE INDEX response_steps_of ON response_steps (response, number);

CREATE INDEX certificates_of ON certificates (spiffe_id, not_after);
