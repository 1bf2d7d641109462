"""Keys, tokens and certificates, for doors and plugs; verbs may not enter."""
