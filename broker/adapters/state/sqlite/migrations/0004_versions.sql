-- Which versions count as reached, and which index of a signed folder was taken last.

-- 1 where the manifest came into force: nothing older may be published. An operator who lowers an application's least
-- version sets it back to 0.
ALTER TABLE manifests ADD COLUMN reached INTEGER NOT NULL DEFAULT 0;
UPDATE manifests SET reached = 1 WHERE state <> 'proposed';

-- An index is its version and its payload: another one of the same version is a forgery or a mistake.
CREATE TABLE manifest_indexes (
    application TEXT PRIMARY KEY,
    version     INTEGER NOT NULL,
    digest      BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- They stood among the floors, under a name that no application has, and without a digest.
INSERT INTO manifest_indexes (application, version, digest)
SELECT CAST(substr(CAST(application AS BLOB), 8) AS TEXT), version, x'' FROM manifest_floors
WHERE hex(application) LIKE '00696E64657800%';
DELETE FROM manifest_floors WHERE hex(application) LIKE '00696E64657800%';
