-- name: open
INSERT INTO leases (
    id, attestation_id, role, role_version, backend, state, mode, decision_id, request_id, identity, audience,
    assurance, handle, revocability, possession_required, issued_at, expires_at, max_expires_at, as_of, renewable,
    ended_at, attempts, next_attempt_at, detail, account_id, cutter
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: get
SELECT * FROM leases WHERE id = ?;

-- name: by_request
SELECT * FROM leases WHERE attestation_id = ? AND request_id = ? ORDER BY id DESC LIMIT 1;

-- name: by_handle
SELECT * FROM leases WHERE handle = ? AND handle <> '' ORDER BY id DESC LIMIT 1;

-- name: by_stem
SELECT * FROM leases WHERE handle >= ? AND handle < ? AND handle <> '' ORDER BY id DESC LIMIT 1;

-- name: replace
UPDATE leases
SET role = ?, role_version = ?, backend = ?, state = ?, mode = ?, decision_id = ?, identity = ?, audience = ?,
    assurance = ?, handle = ?, revocability = ?, possession_required = ?, issued_at = ?, expires_at = ?,
    max_expires_at = ?, as_of = ?, renewable = ?, ended_at = ?, attempts = ?, next_attempt_at = ?, detail = ?
WHERE id = ? AND state = ?;

-- name: begin_revoking
UPDATE leases SET state = 'revoking', next_attempt_at = 0.0
WHERE attestation_id IN (SELECT value FROM json_each(?)) AND +state IN ('pending', 'active');

-- name: of_attestation
SELECT * FROM leases WHERE attestation_id = ? ORDER BY id;

-- name: page
SELECT * FROM leases WHERE id > ? ORDER BY id LIMIT ?;

-- name: page_of_state
SELECT * FROM leases WHERE state = ? AND id > ? ORDER BY id LIMIT ?;

-- name: due
SELECT * FROM leases WHERE due_at <= ? ORDER BY due_at, id LIMIT ?;

-- name: unsettled
SELECT count(*) FROM leases
WHERE attestation_id IN (SELECT value FROM json_each(?)) AND +state IN ('pending', 'active', 'revoking', 'stuck');

-- name: unsettled_of
SELECT count(*) FROM leases
WHERE attestation_id = ? AND +state IN ('pending', 'active', 'revoking', 'stuck');

-- name: count
SELECT state, count(*) FROM leases WHERE state IN ('pending', 'active', 'revoking', 'stuck') GROUP BY state;

-- name: drop
DELETE FROM leases WHERE id = ?;
