-- Where the log began anew, because the state was restored from a copy: an operator said so. What was granted before it
-- by a broker that this state knows nothing of counts for nothing.
CREATE TABLE restorations (
    n            INTEGER PRIMARY KEY,
    log_id       TEXT NOT NULL,
    seq          INTEGER NOT NULL,
    hash         BLOB NOT NULL,
    previous     TEXT NOT NULL,
    previous_seq INTEGER NOT NULL,
    decision_id  TEXT NOT NULL
) STRICT;
