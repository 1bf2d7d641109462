"""Asking the broker beside the launcher's events: signals and the program's end are heard meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from lockstep_client.client import persist
from lockstep_client.connection import Connection, wait_for
from lockstep_client.errors import LockstepError
from lockstep_client.holding import Attestation


@dataclass(frozen=True, slots=True)
class Answer:
    """How asking went: an attestation, or why there is none."""

    attestation: Attestation | None = None
    error: BaseException | None = None

    def verdict(self) -> Attestation:
        """The attestation. Raises the error."""
        if self.attestation is None:
            raise self.error or LockstepError("nothing was answered")
        return self.attestation


class Asking:
    """One question at most, on a thread of its own; `told` is called there with the answer, `measured` before it."""

    def __init__(
        self,
        connection: Connection,
        role: str,
        wait: float,
        measured: Callable[[], None],
        told: Callable[[Answer], None],
    ) -> None:
        """`wait`: seconds to go on trying while nobody answers, for each of the two steps."""
        self._connection = connection
        self._role = role
        self._wait = wait
        self._measured = measured
        self._told = told
        self._over = threading.Event()
        self.begun = False

    def begin(self, *, check: bool) -> None:
        """Ask for the role's credential; with `check` only what would be decided."""
        self.begun = True
        ask = self._check if check else self._obtain
        threading.Thread(target=self._run, args=(ask,), name="lockstep-asking", daemon=True).start()

    def close(self) -> None:
        """Nobody wants to know any more."""
        self._over.set()

    def _run(self, ask: Callable[[], Attestation]) -> None:
        try:
            answer = Answer(ask())
        except BaseException as error:  # noqa: BLE001 - a door: it is raised where the answer is taken
            answer = Answer(error=error)
        if not self._over.is_set():
            self._told(answer)

    def _obtain(self) -> Attestation:
        attestation = persist(lambda: wait_for(self._connection.attest()), self._wait, self._over)
        self._measured()
        persist(lambda: wait_for(self._connection.credential(self._role)), self._wait, self._over)
        return attestation

    def _check(self) -> Attestation:
        attestation = persist(lambda: wait_for(self._connection.check()), self._wait, self._over)
        self._measured()
        return attestation
