-- What a detector's reports stop beside those that they name, so that its cap counts it.

ALTER TABLE detections ADD COLUMN siblings INTEGER NOT NULL DEFAULT 0;

DROP INDEX detections_applied;
CREATE INDEX detections_denied ON detections (detector, received_at) WHERE revocation_id <> '';
