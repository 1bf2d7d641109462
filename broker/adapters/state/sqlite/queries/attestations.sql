-- name: add
INSERT INTO attestations (
    id, state, identity, thumbprint, node, container, pod, process, manifests, code_set, created_at, refreshed_at,
    expires_at, as_of, decision_id, assurance, spki, algorithm, details
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: intern_code_set
INSERT INTO code_sets (digest) VALUES (?) RETURNING n;

-- name: find_code_set
SELECT n FROM code_sets WHERE digest = ?;

-- name: get
SELECT a.*, c.digest FROM attestations AS a JOIN code_sets AS c ON c.n = a.code_set WHERE a.id = ?;

-- name: of_ids
SELECT a.*, c.digest
FROM attestations AS a JOIN code_sets AS c ON c.n = a.code_set
WHERE a.id IN (SELECT value FROM json_each(?))
ORDER BY a.id;

-- name: refresh
UPDATE attestations
SET identity = ?, node = ?, container = ?, pod = ?, process = ?, manifests = ?, code_set = ?, refreshed_at = ?,
    expires_at = ?, as_of = ?, details = ?
WHERE id = ?;

-- name: end
UPDATE attestations SET state = ?
WHERE state = 'alive' AND id IN (SELECT value FROM json_each(?))
RETURNING id, manifests;

-- name: link_manifest
INSERT INTO attestation_manifests (manifest, attestation) VALUES (?, ?);

-- name: unlink_manifest
DELETE FROM attestation_manifests WHERE manifest = ? AND attestation = ?;

-- name: alive_by_attestation
SELECT id FROM attestations WHERE state = 'alive' AND id = ? AND id > ? LIMIT ?;

-- name: alive_by_identity
SELECT id FROM attestations WHERE state = 'alive' AND identity = ? AND id > ? ORDER BY id LIMIT ?;

-- name: alive_by_key
SELECT id FROM attestations WHERE state = 'alive' AND thumbprint = ? AND id > ? ORDER BY id LIMIT ?;

-- name: alive_by_node
SELECT id FROM attestations WHERE state = 'alive' AND node = ? AND id > ? ORDER BY id LIMIT ?;

-- name: alive_by_container
SELECT id FROM attestations WHERE state = 'alive' AND container = ? AND id > ? ORDER BY id LIMIT ?;

-- name: alive_by_pod
SELECT id FROM attestations WHERE state = 'alive' AND pod = ? AND id > ? ORDER BY id LIMIT ?;

-- name: alive_by_process
SELECT id FROM attestations WHERE state = 'alive' AND process = ? AND id > ? ORDER BY id LIMIT ?;

-- name: last_of_process
SELECT id FROM attestations WHERE process = ? ORDER BY id DESC LIMIT 1;

-- name: alive_by_manifest
SELECT attestation FROM attestation_manifests WHERE manifest = ? AND attestation > ? ORDER BY attestation LIMIT ?;

-- name: alive_by_digest
SELECT a.id
FROM attestations AS a
WHERE a.state = 'alive'
  AND a.code_set IN (
      SELECT m.code_set FROM code_set_units AS m JOIN code_units AS u ON u.n = m.unit WHERE u.digest = ?
  )
  AND a.id > ?
ORDER BY a.id
LIMIT ?;

-- name: code_sets_with
SELECT m.code_set FROM code_set_units AS m JOIN code_units AS u ON u.n = m.unit WHERE u.digest = ?;

-- name: loaded
SELECT id FROM attestations
WHERE code_set IN (SELECT value FROM json_each(?)) AND refreshed_at >= ? AND id > ?
ORDER BY id
LIMIT ?;

-- name: page
SELECT id FROM attestations WHERE id > ? AND +refreshed_at >= ? ORDER BY id LIMIT ?;

-- name: page_of_identity
SELECT id FROM attestations WHERE identity = ? AND id > ? AND +refreshed_at >= ? ORDER BY id LIMIT ?;

-- name: count_alive
SELECT count(*) FROM attestations WHERE state = 'alive';

-- name: count_alive_of
SELECT count(*) FROM attestations WHERE state = 'alive' AND identity = ?;

-- name: due
SELECT id FROM attestations WHERE state = 'alive' AND expires_at <= ? ORDER BY expires_at, id LIMIT ?;
