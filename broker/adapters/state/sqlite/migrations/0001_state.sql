-- The whole state of one broker. Times are seconds since the epoch (UTC), digests are raw bytes, ids sort by time.
-- Rows keep an integer of their own (rowid), so that they are appended and indexes stay small.

CREATE TABLE head (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    log_id TEXT NOT NULL,
    seq    INTEGER NOT NULL,
    hash   BLOB NOT NULL
) STRICT;

-- Code -------------------------------------------------------------------------------------------------------

-- A code set is written once, whoever attests with it. `units` is NULL while only its digest is known.
CREATE TABLE code_sets (
    n      INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    units  BLOB
) STRICT;

CREATE TABLE code_units (
    n      INTEGER PRIMARY KEY,
    digest BLOB NOT NULL,
    kind   INTEGER NOT NULL,
    UNIQUE (digest, kind)
) STRICT;

-- From a unit to the sets that have it: two small integers a row.
CREATE TABLE code_set_units (
    unit     INTEGER NOT NULL,
    code_set INTEGER NOT NULL,
    PRIMARY KEY (unit, code_set)
) STRICT, WITHOUT ROWID;

CREATE TABLE code_hints (
    digest BLOB PRIMARY KEY,
    path   TEXT NOT NULL,
    name   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Attestations -----------------------------------------------------------------------------------------------

CREATE TABLE attestations (
    n            INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    state        TEXT NOT NULL,
    identity     TEXT NOT NULL,
    thumbprint   BLOB NOT NULL,
    node         TEXT,
    container    TEXT,
    pod          TEXT,
    process      TEXT,
    manifests    BLOB NOT NULL,
    code_set     INTEGER NOT NULL,
    created_at   REAL NOT NULL,
    refreshed_at REAL NOT NULL,
    expires_at   REAL NOT NULL,
    as_of        INTEGER NOT NULL,
    decision_id  TEXT NOT NULL,
    assurance    INTEGER NOT NULL,
    spki         BLOB NOT NULL,
    algorithm    TEXT NOT NULL,
    details      TEXT NOT NULL
) STRICT;

CREATE INDEX attestations_identity ON attestations (identity, id) WHERE state = 'alive';
CREATE INDEX attestations_key ON attestations (thumbprint, id) WHERE state = 'alive';
CREATE INDEX attestations_node ON attestations (node, id) WHERE state = 'alive' AND node IS NOT NULL;
CREATE INDEX attestations_container ON attestations (container, id) WHERE state = 'alive' AND container IS NOT NULL;
CREATE INDEX attestations_pod ON attestations (pod, id) WHERE state = 'alive' AND pod IS NOT NULL;
CREATE INDEX attestations_process ON attestations (process, id) WHERE process IS NOT NULL;
CREATE INDEX attestations_due ON attestations (expires_at, id) WHERE state = 'alive';
CREATE INDEX attestations_alive_code ON attestations (code_set, id, state) WHERE state = 'alive';
CREATE INDEX attestations_code ON attestations (code_set, refreshed_at);

-- Only of those that are alive.
CREATE TABLE attestation_manifests (
    manifest    BLOB NOT NULL,
    attestation TEXT NOT NULL,
    PRIMARY KEY (manifest, attestation)
) STRICT, WITHOUT ROWID;

-- Leases -----------------------------------------------------------------------------------------------------

CREATE TABLE leases (
    n                   INTEGER PRIMARY KEY,
    id                  TEXT NOT NULL UNIQUE,
    attestation_id      TEXT NOT NULL,
    role                TEXT NOT NULL,
    role_version        BLOB NOT NULL,
    backend             TEXT NOT NULL,
    state               TEXT NOT NULL,
    mode                TEXT NOT NULL,
    decision_id         TEXT NOT NULL,
    request_id          TEXT NOT NULL,
    identity            TEXT NOT NULL,
    audience            TEXT NOT NULL,
    assurance           INTEGER NOT NULL,
    handle              TEXT NOT NULL,
    revocability        TEXT NOT NULL,
    possession_required INTEGER NOT NULL,
    issued_at           REAL NOT NULL,
    expires_at          REAL NOT NULL,
    max_expires_at      REAL NOT NULL,
    as_of               INTEGER NOT NULL,
    renewable           INTEGER NOT NULL,
    ended_at            REAL NOT NULL,
    attempts            INTEGER NOT NULL,
    next_attempt_at     REAL NOT NULL,
    detail              TEXT NOT NULL,
    due_at              REAL GENERATED ALWAYS AS (
        CASE
            WHEN state = 'active' THEN expires_at
            WHEN state IN ('pending', 'revoking', 'stuck') THEN next_attempt_at
        END
    ) VIRTUAL
) STRICT;

CREATE INDEX leases_attestation ON leases (attestation_id, request_id, id);
CREATE INDEX leases_handle ON leases (handle, id) WHERE handle <> '';
CREATE INDEX leases_due ON leases (due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX leases_state ON leases (state, id);

-- Revocation -------------------------------------------------------------------------------------------------

CREATE TABLE log (
    seq            INTEGER PRIMARY KEY,
    hash           BLOB NOT NULL,
    kind           TEXT NOT NULL,
    revocation_id  TEXT NOT NULL,
    selector_kind  TEXT NOT NULL,
    selector_value TEXT NOT NULL,
    cut            INTEGER NOT NULL,
    ban            INTEGER NOT NULL,
    at             REAL NOT NULL,
    until          REAL,
    actor          TEXT NOT NULL,
    reason         TEXT NOT NULL,
    ticket         TEXT NOT NULL,
    decision_id    TEXT NOT NULL,
    refers_to      INTEGER NOT NULL,
    audience       TEXT NOT NULL
) STRICT;

CREATE TABLE revocations (
    n            INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    state        TEXT NOT NULL,
    at           REAL NOT NULL,
    details      TEXT NOT NULL,
    receipt      BLOB NOT NULL
) STRICT;

CREATE INDEX revocations_open ON revocations (at, id) WHERE state <> 'settled';
CREATE INDEX revocations_state ON revocations (state, id);

CREATE TABLE revocation_hits (
    revocation_id  TEXT NOT NULL,
    attestation_id TEXT NOT NULL,
    PRIMARY KEY (revocation_id, attestation_id)
) STRICT, WITHOUT ROWID;

-- Detections and decisions -----------------------------------------------------------------------------------

CREATE TABLE detections (
    n             INTEGER PRIMARY KEY,
    id            TEXT NOT NULL UNIQUE,
    detector      TEXT NOT NULL,
    event_id      TEXT NOT NULL,
    state         TEXT NOT NULL,
    reason        TEXT NOT NULL,
    decided_by    TEXT NOT NULL,
    decision_id   TEXT NOT NULL,
    revocation_id TEXT NOT NULL,
    received_at   REAL NOT NULL,
    instances     TEXT NOT NULL,
    details       TEXT NOT NULL
) STRICT;

CREATE INDEX detections_event ON detections (detector, event_id, id);
CREATE INDEX detections_applied ON detections (detector, received_at) WHERE state = 'applied';
CREATE INDEX detections_state ON detections (state, id);

CREATE TABLE decisions (
    n       INTEGER PRIMARY KEY,
    id      TEXT NOT NULL UNIQUE,
    at      REAL NOT NULL,
    details TEXT NOT NULL
) STRICT;

CREATE INDEX decisions_at ON decisions (at, id);

CREATE TABLE role_versions (
    version     BLOB PRIMARY KEY,
    name        TEXT NOT NULL,
    text        TEXT NOT NULL,
    recorded_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- Manifests --------------------------------------------------------------------------------------------------

CREATE TABLE manifests (
    n            INTEGER PRIMARY KEY,
    digest       BLOB NOT NULL UNIQUE,
    application  TEXT NOT NULL,
    version      INTEGER NOT NULL,
    state        TEXT NOT NULL,
    published_at REAL NOT NULL,
    signers      TEXT NOT NULL,
    envelope     BLOB NOT NULL,
    content      BLOB NOT NULL,
    UNIQUE (application, version)
) STRICT;

CREATE TABLE manifest_floors (
    application TEXT PRIMARY KEY,
    version     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE packages (
    n    INTEGER PRIMARY KEY,
    purl TEXT NOT NULL UNIQUE
) STRICT;

-- `unit` is 1 where the digest is a unit's, 0 where it is only a whole file's.
CREATE TABLE package_digests (
    digest  BLOB NOT NULL,
    package INTEGER NOT NULL,
    unit    INTEGER NOT NULL,
    PRIMARY KEY (digest, package)
) STRICT, WITHOUT ROWID;

CREATE INDEX package_digests_package ON package_digests (package, digest) WHERE unit = 1;

-- Things that count once -------------------------------------------------------------------------------------

CREATE TABLE replays (
    scope      TEXT NOT NULL,
    key        BLOB NOT NULL,
    expires_at REAL NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX replays_expiry ON replays (expires_at);
