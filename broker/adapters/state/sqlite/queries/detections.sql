-- name: add
INSERT INTO detections (
    id, detector, event_id, state, reason, decided_by, decision_id, revocation_id, received_at, instances, details,
    siblings, held
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: get
SELECT * FROM detections WHERE id = ?;

-- name: decide
UPDATE detections
SET state = ?, reason = ?, decided_by = ?, decision_id = ?, revocation_id = ?, instances = ?, siblings = ?
WHERE id = ? AND state = 'held';

-- name: by_event
SELECT * FROM detections WHERE detector = ? AND event_id = ? ORDER BY id LIMIT 1;

-- name: applied_instances
SELECT count(DISTINCT i.value)
FROM detections AS d, json_each(d.instances) AS i
WHERE d.revocation_id <> '' AND d.detector = ? AND d.received_at >= ? AND d.state = 'applied' AND EXISTS (
    SELECT 1 FROM revocation_hits AS h WHERE h.revocation_id = d.revocation_id AND h.attestation_id = i.value
);

-- name: denied_instances
SELECT count(DISTINCT i.value)
FROM detections AS d, json_each(d.instances) AS i
WHERE d.revocation_id <> '' AND d.detector = ? AND d.received_at >= ?;

-- name: siblings
SELECT coalesce(sum(siblings), 0) FROM detections
WHERE revocation_id <> '' AND detector = ? AND received_at >= ?;

-- name: siblings_of_revoked
SELECT coalesce(sum(d.siblings), 0) FROM detections AS d
WHERE d.revocation_id <> '' AND d.detector = ? AND d.received_at >= ? AND EXISTS (
    SELECT 1 FROM revocation_hits AS h WHERE h.revocation_id = d.revocation_id
);

-- name: page
SELECT * FROM detections WHERE id > ? ORDER BY id LIMIT ?;

-- name: page_of_state
SELECT * FROM detections WHERE state = ? AND id > ? ORDER BY id LIMIT ?;

-- name: drop
DELETE FROM detections WHERE id = ?;
