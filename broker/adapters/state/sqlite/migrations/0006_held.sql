-- What a held report would have done: {"action": …, "exact": …}. Empty for all others, and for those of before, of which
-- nothing is known.
ALTER TABLE detections ADD COLUMN held TEXT NOT NULL DEFAULT '';
