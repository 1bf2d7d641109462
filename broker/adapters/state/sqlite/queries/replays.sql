-- name: claim
INSERT INTO replays (scope, key, expires_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING;

-- name: prune
DELETE FROM replays
WHERE (scope, key) IN (SELECT scope, key FROM replays WHERE expires_at <= ? ORDER BY expires_at LIMIT ?);
