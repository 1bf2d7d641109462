-- name: add
INSERT INTO accounts (
    id, attestation_id, backend, replica, state, opened_at, accessor, closing_at, closed_at, attempts,
    next_attempt_at, detail, steps
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: get
SELECT * FROM accounts WHERE id = ?;

-- name: replace
UPDATE accounts
SET replica = ?, state = ?, opened_at = ?, accessor = ?, closing_at = ?, closed_at = ?, attempts = ?,
    next_attempt_at = ?, detail = ?, steps = ?
WHERE id = ? AND state = ?;

-- name: of_attestation
SELECT * FROM accounts WHERE attestation_id = ? ORDER BY id;

-- name: begin_closing
UPDATE accounts SET state = 'closing', closing_at = ?, next_attempt_at = 0.0
WHERE attestation_id IN (SELECT value FROM json_each(?)) AND +state IN ('opening', 'open');

-- name: due
SELECT * FROM accounts WHERE due_at <= ? ORDER BY due_at, id LIMIT ?;

-- name: unsettled
SELECT count(*) FROM accounts
WHERE attestation_id IN (SELECT value FROM json_each(?)) AND +state <> 'closed';

-- name: page
SELECT * FROM accounts WHERE id > ? ORDER BY id LIMIT ?;

-- name: page_of_state
SELECT * FROM accounts WHERE state = ? AND id > ? ORDER BY id LIMIT ?;
