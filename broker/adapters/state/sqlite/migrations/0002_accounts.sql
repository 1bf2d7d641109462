-- What backends hold for an attestation, and what a lease hangs on.

CREATE TABLE accounts (
    n               INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    attestation_id  TEXT NOT NULL,
    backend         TEXT NOT NULL,
    replica         TEXT NOT NULL,
    state           TEXT NOT NULL,
    opened_at       REAL NOT NULL,
    accessor        TEXT NOT NULL,
    closing_at      REAL NOT NULL,
    closed_at       REAL NOT NULL,
    attempts        INTEGER NOT NULL,
    next_attempt_at REAL NOT NULL,
    detail          TEXT NOT NULL,
    steps           TEXT NOT NULL,
    due_at          REAL GENERATED ALWAYS AS (CASE WHEN state IN ('closing', 'stuck') THEN next_attempt_at END) VIRTUAL
) STRICT;

CREATE INDEX accounts_attestation ON accounts (attestation_id, id);
CREATE INDEX accounts_due ON accounts (due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX accounts_state ON accounts (state, id);

ALTER TABLE leases ADD COLUMN account_id TEXT NOT NULL DEFAULT '';
ALTER TABLE leases ADD COLUMN cutter TEXT NOT NULL DEFAULT '';
