-- name: add
INSERT INTO decisions (id, at, details) VALUES (?, ?, ?);

-- name: get
SELECT id, at, details FROM decisions WHERE id = ?;

-- name: page
SELECT id, at, details FROM decisions WHERE id > ? AND +at >= ? ORDER BY id LIMIT ?;

-- name: page_from
SELECT id, at, details FROM decisions WHERE at >= ? ORDER BY +id LIMIT ?;

-- name: added_after
SELECT id, at, details FROM decisions
WHERE n > (SELECT n FROM decisions WHERE id = ?) ORDER BY n LIMIT ?;

-- name: last_added
SELECT id, at, details FROM decisions WHERE n > 0 ORDER BY n DESC LIMIT ?;

-- name: record_role
INSERT INTO role_versions (version, name, text, recorded_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: role_text
SELECT text FROM role_versions WHERE version = ?;
