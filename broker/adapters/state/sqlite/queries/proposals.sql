-- name: put
INSERT INTO proposals (id, state, expires_at, details) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET state = excluded.state, expires_at = excluded.expires_at, details = excluded.details;

-- name: get
SELECT id, state, expires_at, details FROM proposals WHERE id = ?;

-- name: page
SELECT id, state, expires_at, details FROM proposals WHERE id > ? ORDER BY id LIMIT ?;

-- name: waiting
SELECT count(*) FROM proposals WHERE state = 'open' AND expires_at > ?;
