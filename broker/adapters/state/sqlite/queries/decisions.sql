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
WHERE n > CASE ?1 WHEN '' THEN 0 ELSE (SELECT n FROM decisions WHERE id = ?1) END ORDER BY n LIMIT ?2;

-- name: record_role
INSERT INTO role_versions (version, name, text, recorded_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: role_text
SELECT text FROM role_versions WHERE version = ?;

-- name: drop
DELETE FROM decisions WHERE id = ?;
