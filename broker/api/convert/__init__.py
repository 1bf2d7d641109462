"""The wire and the nouns, both ways, total: every enum value has its twin."""
