-- name: known
SELECT n FROM code_sets WHERE digest = ? AND units IS NOT NULL;

-- name: put
INSERT INTO code_sets (digest, units) VALUES (?, ?)
ON CONFLICT (digest) DO UPDATE SET units = excluded.units
RETURNING n;

-- name: put_unit
INSERT INTO code_units (digest, kind) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- name: put_member
INSERT INTO code_set_units (unit, code_set) SELECT n, ? FROM code_units WHERE digest = ? AND kind = ?;

-- name: get
SELECT units FROM code_sets WHERE digest = ? AND units IS NOT NULL;

-- name: contains
SELECT 1
FROM code_units AS u JOIN code_set_units AS m ON m.unit = u.n
WHERE u.digest = ? AND m.code_set = ?
LIMIT 1;

-- name: put_hint
INSERT INTO code_hints (digest, path, name) VALUES (?, ?, ?) ON CONFLICT DO NOTHING;

-- name: hint
SELECT digest, path, name FROM code_hints WHERE digest = ?;
