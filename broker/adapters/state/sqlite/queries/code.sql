-- name: known
SELECT n FROM code_sets WHERE digest = ? AND units IS NOT NULL;

-- name: put
INSERT INTO code_sets (digest, units) VALUES (?, ?)
ON CONFLICT (digest) DO UPDATE SET units = excluded.units
RETURNING n;

-- name: progress
SELECT n, coalesce(indexed, 0), length(units) / 33, indexed IS NULL
FROM code_sets WHERE digest = ? AND units IS NOT NULL;

-- name: slice
SELECT coalesce(substr(units, ?, ?), x'') FROM code_sets WHERE n = ?;

-- name: advance
UPDATE code_sets SET indexed = ? WHERE n = ?;

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

-- name: put_names
INSERT INTO code_names (code_set, identity, size, names) VALUES (?, ?, ?, ?)
ON CONFLICT (code_set, identity) DO UPDATE SET size = excluded.size, names = excluded.names;

-- name: names
SELECT m.names FROM code_names AS m JOIN code_sets AS s ON s.n = m.code_set WHERE s.digest = ? AND m.identity = ?;

-- name: loose
SELECT n, length(units) FROM code_sets WHERE indexed IS NULL AND units IS NOT NULL ORDER BY n DESC;

-- name: attested
SELECT 1 FROM attestations WHERE code_set = ? LIMIT 1;

-- name: forget
DELETE FROM code_sets WHERE n = ?;

-- name: forget_names_of
DELETE FROM code_names WHERE code_set = ?;

-- name: sizes_of_names
SELECT n, size FROM code_names ORDER BY n DESC;

-- name: forget_names
DELETE FROM code_names WHERE n = ?;
