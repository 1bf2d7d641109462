"""The guard of one process: an audit hook that sees code before it runs, and says so."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Final

from lockstep_client.guard.generators import Generators
from lockstep_client.guard.judge import Judge, Judgement, concerns
from lockstep_client.guard.observation import Approved, CodeRefused, GuardMode, Observation
from lockstep_client.guard.outbox import Outbox
from lockstep_client.guard.sweep import Sweep
from lockstep_client.measure.hashing import HashCache

_REMEMBERED: Final = 4096
_LAST_WORDS: Final = 1.0
"""Seconds that the exit of the process waits for what is still to be told."""


class Guard:
    """Watches this process from the inside, from `install` on (PEP 578).

    It can add suspicion, never assurance: whatever runs in the process can
    silence it, code that came before it is not seen, native code makes code
    without any event, and other interpreters have other hooks. It exists to
    stop or tell the *first* unapproved step, which approved code takes in good
    faith: an import of a file that was swapped, a pickle from outside, text
    that was fetched.

    `report` is called with each new observation on a thread of the guard's own,
    at once; it must not block for long. The same code is told once. `missed`
    hears how many could not be told or judged.
    """

    def __init__(
        self,
        report: Callable[[Observation], None],
        approved: Approved,
        *,
        mode: GuardMode = GuardMode.REPORT,
        generators: Generators | None = None,
        cache: HashCache | None = None,
        missed: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`generators` may compile text unreported, by default the known ones; `approved` may grow later."""
        cache = cache if cache is not None else HashCache()
        self._report = report
        self._enforces = threading.Event()
        if mode is GuardMode.ENFORCE:
            self._enforces.set()
        self._told: OrderedDict[tuple[str, bytes, str, str], None] = OrderedDict()
        self._outbox = Outbox(self._deliver, Sweep(approved, cache, self._tell_from_sweep), missed)
        judge = Judge(approved, generators or Generators(), cache, self._want_sweep)
        self._hook = _hook(judge.events(), self._tell, self._unjudged, self._enforces.is_set)
        self._installed = False

    @property
    def lost(self) -> int:
        """Observations that could not be delivered, and events that could not be judged."""
        return self._outbox.lost

    def install(self) -> None:
        """Begin. There is no way back: a hook stays for the life of the interpreter (PEP 578)."""
        if self._installed:
            return
        self._installed = True
        sys.addaudithook(self._hook)
        atexit.register(self.flush, _LAST_WORDS)
        os.register_at_fork(after_in_child=self._told.clear)  # a child is another instance, and says it anew
        self._outbox.start()

    def enforce(self) -> None:
        """From here on, stop what is not approved too: for whoever learns only now what is. For good."""
        self._enforces.set()

    def flush(self, timeout: float) -> bool:
        """Wait until everything seen has been reported; False after `timeout` seconds."""
        return self._outbox.flush(timeout)

    def _want_sweep(self) -> None:
        self._outbox.put(None)

    def _tell(self, observation: Observation) -> None:
        if self._is_new(observation) and not self._outbox.put(observation):
            self._told.pop(_key(observation), None)

    def _tell_from_sweep(self, observation: Observation) -> None:
        if self._is_new(observation):
            self._deliver(observation)

    def _deliver(self, observation: Observation) -> None:
        try:
            self._report(observation)
        except BaseException:
            self._told.pop(_key(observation), None)  # nobody was told: the next time is the first
            raise

    def _unjudged(self) -> None:
        self._outbox.lost += 1

    def _is_new(self, observation: Observation) -> bool:
        key = _key(observation)
        if key in self._told:
            return False
        self._told[key] = None
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        return True


def _key(observation: Observation) -> tuple[str, bytes, str, str]:
    """What makes two observations the same news."""
    digest = observation.digest
    if digest:
        return observation.kind, digest, "", ""
    return observation.kind, b"", observation.path, observation.name


def _hook(
    events: Mapping[str, Judgement],
    tell: Callable[[Observation], None],
    unjudged: Callable[[], None],
    enforces: Callable[[], bool],
) -> Callable[[str, tuple[Any, ...]], None]:
    """The hook as a closure: what it needs is in its cells, not in a module that anybody can clear."""
    judgement_of = dict(events).get
    matters = concerns
    inside = threading.local()
    caller: Callable[[int], FrameType] = sys._getframe
    finalizing = sys.is_finalizing

    def hook(event: str, args: tuple[Any, ...]) -> None:
        judgement = judgement_of(event)
        if judgement is None or not matters(event, args) or finalizing():
            return
        # What the judgement itself opens and loads on this thread must not come back here.
        if getattr(inside, "judging", False):
            return
        inside.judging = True
        try:
            for observation in judgement(args, caller(1)):
                tell(observation)
                if enforces():
                    raise CodeRefused(observation)
        except CodeRefused:
            raise
        except Exception as error:
            # A door: a fault of the hook's own must not break what is audited, unless nothing may pass unjudged.
            if enforces():
                raise RuntimeError(f"the guard could not judge {event}") from error
            unjudged()
        finally:
            inside.judging = False

    return hook
