-- Version 2: revocations. A certificate's own column was never written by any command.

CREATE TABLE revocations (
    id           TEXT PRIMARY KEY,
    kind         TEXT NOT NULL,    -- jti, sub, kid, issuer, identity, serial
    value        TEXT NOT NULL,
    issuer       TEXT NOT NULL,    -- of tokens; empty: any
    issued_until INTEGER,          -- seconds since 1970: only tokens issued until then
    revoked_at   INTEGER NOT NULL,
    revoked_by   TEXT NOT NULL,
    until        INTEGER,          -- none: until it is lifted
    reason       TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX revocations_target ON revocations (kind, value, issuer);

ALTER TABLE certificates DROP COLUMN revoked_at;
