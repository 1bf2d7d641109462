"""Publish: reference values come into force by k-of-n signatures, and leave it by retiring or withdrawing."""

from broker.publish.publisher import Publisher

__all__ = ["Publisher"]
