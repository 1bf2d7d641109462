-- Revocations that take more than one operator: what they would hit, who has agreed, and how each ended.
CREATE TABLE proposals (
    n          INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    state      TEXT NOT NULL,
    expires_at REAL NOT NULL,
    details    TEXT NOT NULL
) STRICT;

CREATE INDEX proposals_waiting ON proposals (state, expires_at);
