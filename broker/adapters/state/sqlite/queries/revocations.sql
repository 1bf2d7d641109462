-- name: head
SELECT log_id, seq, hash FROM head WHERE one = 1;

-- name: start_log
INSERT INTO head (one, log_id, seq, hash) VALUES (1, ?, 0, ?) ON CONFLICT DO NOTHING;

-- name: advance
UPDATE head SET seq = ?, hash = ? WHERE one = 1;

-- name: begin_anew
UPDATE head SET log_id = ?, seq = ?, hash = ? WHERE one = 1;

-- name: add_restoration
INSERT INTO restorations (log_id, seq, hash, previous, previous_seq, decision_id) VALUES (?, ?, ?, ?, ?, ?);

-- name: restored
SELECT log_id, seq, hash FROM restorations WHERE n = (SELECT max(n) FROM restorations);

-- name: append
INSERT INTO log (
    seq, hash, kind, revocation_id, selector_kind, selector_value, cut, ban, at, until, actor, reason, ticket,
    decision_id, refers_to, audience
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: since
SELECT * FROM log WHERE seq > ? ORDER BY seq LIMIT ?;

-- name: entry
SELECT * FROM log WHERE seq = ?;

-- name: live
SELECT * FROM log ORDER BY seq;

-- name: prune
DELETE FROM log WHERE seq = ?;

-- name: put
INSERT INTO revocations (id, state, at, details, receipt) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE
SET state = excluded.state, at = excluded.at, details = excluded.details, receipt = excluded.receipt;

-- name: get
SELECT id, state, at, details, receipt FROM revocations WHERE id = ?;

-- name: page
SELECT id, state, at, details, receipt FROM revocations WHERE id > ? ORDER BY id LIMIT ?;

-- name: page_of_state
SELECT id, state, at, details, receipt FROM revocations WHERE state = ? AND id > ? ORDER BY id LIMIT ?;

-- name: newest
SELECT id, state, at, details, receipt FROM revocations WHERE state = ? ORDER BY id DESC LIMIT ?;

-- name: hit
INSERT INTO revocation_hits (revocation_id, attestation_id) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- name: hits
SELECT attestation_id FROM revocation_hits
WHERE revocation_id = ? AND attestation_id > ?
ORDER BY attestation_id
LIMIT ?;
