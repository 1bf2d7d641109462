"""Durable state: one transaction at a time, returned only when it would survive a crash."""
