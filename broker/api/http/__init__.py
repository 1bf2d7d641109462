"""The HTTP door: webhooks, introspection, public keys, health and metrics."""
