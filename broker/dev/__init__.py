"""A broker for a laptop: one private folder with throw-away keys, tokens and a configuration. Never for more."""

from broker.dev.files import FolderRefused
from broker.dev.folder import Laptop, make

__all__ = ["FolderRefused", "Laptop", "make"]
