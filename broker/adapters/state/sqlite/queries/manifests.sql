-- name: add
INSERT INTO manifests (digest, application, version, state, published_at, signers, envelope, content, reached)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING;

-- name: put_package
INSERT INTO packages (purl) VALUES (?) ON CONFLICT DO NOTHING;

-- name: put_package_digest
INSERT INTO package_digests (digest, package, unit) SELECT ?, n, ? FROM packages WHERE purl = ?
ON CONFLICT DO UPDATE SET unit = max(unit, excluded.unit);

-- name: signers
SELECT signers FROM manifests WHERE digest = ?;

-- name: set_signatures
UPDATE manifests SET envelope = ?, signers = ? WHERE digest = ?;

-- name: get
SELECT digest, application, version, state, published_at, signers, envelope, content
FROM manifests WHERE digest = ?;

-- name: by_version
SELECT digest, application, version, state, published_at, signers, envelope, content
FROM manifests WHERE application = ? AND version = ?;

-- name: of_application
SELECT digest, application, version, state, published_at, signers, envelope, content
FROM manifests
WHERE application = ? AND state IN (SELECT value FROM json_each(?))
ORDER BY version DESC;

-- name: all
SELECT digest, application, version, state, published_at, signers, envelope, content
FROM manifests
WHERE state IN (SELECT value FROM json_each(?))
ORDER BY version DESC, application;

-- name: digests_of_application
SELECT digest FROM manifests
WHERE application = ? AND state IN (SELECT value FROM json_each(?))
ORDER BY version DESC LIMIT ?;

-- name: all_digests
SELECT digest FROM manifests
WHERE state IN (SELECT value FROM json_each(?))
ORDER BY version DESC, application LIMIT ?;

-- name: set_state
UPDATE manifests SET state = ?, reached = max(reached, ? = 'in_force')
WHERE digest = ? AND (state <> 'withdrawn' OR ? = 'withdrawn');

-- name: reached
SELECT max(version) FROM manifests WHERE application = ? AND reached = 1;

-- name: floor
SELECT version FROM manifest_floors WHERE application = ?;

-- name: raise_floor
INSERT INTO manifest_floors (application, version) VALUES (?, ?)
ON CONFLICT (application) DO UPDATE SET version = max(version, excluded.version);

-- name: set_floor
INSERT INTO manifest_floors (application, version) VALUES (?, ?)
ON CONFLICT (application) DO UPDATE SET version = excluded.version;

-- name: forget_reached
UPDATE manifests SET reached = 0 WHERE application = ? AND version >= ?;

-- name: last_index
SELECT version, digest FROM manifest_indexes WHERE application = ?;

-- name: put_index
INSERT INTO manifest_indexes (application, version, digest) VALUES (?, ?, ?)
ON CONFLICT (application) DO UPDATE SET version = excluded.version, digest = excluded.digest;

-- name: digests_of_package
SELECT d.digest FROM package_digests AS d JOIN packages AS p ON p.n = d.package
WHERE p.purl = ? AND d.unit = 1
ORDER BY d.digest;

-- name: package_of_digest
SELECT min(p.purl) FROM package_digests AS d JOIN packages AS p ON p.n = d.package WHERE d.digest = ?;
