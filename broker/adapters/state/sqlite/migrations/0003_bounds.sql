-- Code sets: which can be found by what they have, and who named their units. Reports: what their caps count.

-- How many units of `units`, in their order, are in code_set_units; NULL for a set that was only judged, and is found by
-- its own digest alone.
ALTER TABLE code_sets ADD COLUMN indexed INTEGER;
UPDATE code_sets SET indexed = length(units) / 33 WHERE units IS NOT NULL;

CREATE INDEX code_sets_loose ON code_sets (n) WHERE indexed IS NULL AND units IS NOT NULL;

-- Names that were first come, whoever said them, showed one tenant's words to another's operators.
DROP TABLE code_hints;

-- What one identity calls the units of one set; `size` is that of `names` before it was compressed.
CREATE TABLE code_names (
    n        INTEGER PRIMARY KEY,
    code_set INTEGER NOT NULL,
    identity TEXT NOT NULL,
    size     INTEGER NOT NULL,
    names    BLOB NOT NULL,
    UNIQUE (code_set, identity)
) STRICT;

CREATE INDEX code_names_size ON code_names (n, size);

-- How many more than those that a report names a ban of their identity stops.
ALTER TABLE detections ADD COLUMN siblings INTEGER NOT NULL DEFAULT 0;

DROP INDEX detections_applied;
CREATE INDEX detections_denied ON detections (detector, received_at) WHERE revocation_id <> '';
