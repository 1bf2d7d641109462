"""Forks, minded once for everything that has threads and connections."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """What a fork must not copy half-way."""

    def before_fork(self) -> None:
        """No stream may be open while the process is copied."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Forget the parent's key, secrets, threads and connection, without touching the network."""


def mind(thing: Forkable) -> None:
    """Call its three methods around every fork for as long as it lives."""
    # Hooks cannot be taken back: they hold the thing weakly.
    me = weakref.ref(thing)

    def before() -> None:
        if (it := me()) is not None:
            it.before_fork()

    def in_parent() -> None:
        if (it := me()) is not None:
            it.after_fork_in_parent()

    def in_child() -> None:
        if (it := me()) is not None:
            it.after_fork_in_child()

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)
