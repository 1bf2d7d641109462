"""Lockstep's broker: attest what runs, issue what it may hold, revoke what it must not keep."""
