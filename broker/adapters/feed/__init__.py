"""How the revocation log reaches this replica and its watchers."""
