-- name: add
INSERT INTO decisions (id, at, details) VALUES (?, ?, ?);

-- name: get
SELECT id, at, details FROM decisions WHERE id = ?;

-- name: page
SELECT id, at, details FROM decisions WHERE id > ? AND +at >= ? ORDER BY id LIMIT ?;

-- name: page_from
SELECT id, at, details FROM decisions WHERE at >= ? ORDER BY +id LIMIT ?;

-- name: following
SELECT id, at, details FROM decisions
WHERE n > ifnull((SELECT n FROM decisions WHERE id = ?), CASE ? WHEN '' THEN 0 END) ORDER BY n LIMIT ?;

-- name: record_role
INSERT INTO role_versions (version, name, text, recorded_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: role_text
SELECT text FROM role_versions WHERE version = ?;

-- name: drop
DELETE FROM decisions WHERE id = ?;
