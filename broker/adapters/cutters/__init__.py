"""Cutters: plugs that end an attestation's logins and sessions at the target itself."""
