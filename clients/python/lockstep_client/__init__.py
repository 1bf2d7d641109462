"""Lockstep's SDK: prove what runs, hold a lease, let go when it is revoked."""
