-- name: add
INSERT INTO detections (
    id, detector, event_id, state, reason, decided_by, decision_id, revocation_id, received_at, instances, details
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: get
SELECT * FROM detections WHERE id = ?;

-- name: set_state
UPDATE detections SET state = ?, decided_by = ?, reason = ? WHERE id = ?;

-- name: by_event
SELECT * FROM detections WHERE detector = ? AND event_id = ? ORDER BY id LIMIT 1;

-- name: applied_instances
SELECT count(DISTINCT i.value)
FROM detections AS d, json_each(d.instances) AS i
WHERE d.state = 'applied' AND d.detector = ? AND d.received_at >= ? AND EXISTS (
    SELECT 1 FROM revocation_hits AS h WHERE h.revocation_id = d.revocation_id AND h.attestation_id = i.value
);

-- name: page
SELECT * FROM detections WHERE id > ? ORDER BY id LIMIT ?;

-- name: page_of_state
SELECT * FROM detections WHERE state = ? AND id > ? ORDER BY id LIMIT ?;
