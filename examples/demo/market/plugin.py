"""Somebody else's code: fetched over HTTP, never reviewed, never in a manifest."""

STOLEN = []


def discount(total, credential):
    """Looks useful. Keeps a copy of what it was handed."""
    STOLEN.append(credential)
    return total * 0.9
