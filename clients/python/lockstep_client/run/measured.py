"""The child's evidence: its program by descriptor, what its process tree has mapped, what its Python processes say."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace

from lockstep.formats import UnitKind
from lockstep_client.measure import HashCache, Measurement, UnitHint, UnknownCode, measure_process
from lockstep_client.measure.process import process_ref
from lockstep_client.run.links import Links
from lockstep_client.run.program import Plan


class ChildMeasure:
    """Measures a child, never its launcher. Before the child exists, only its program is known.

    `last` is the last measurement, `took` how long it took (seconds).
    """

    def __init__(
        self, plan: Plan, links: Links, pid: Callable[[], int], unguarded: Callable[[int], None]
    ) -> None:
        """`unguarded` is called once with the pid of every Python process that has no hook."""
        self._plan = plan
        self._links = links
        self._pid = pid
        self._unguarded = unguarded
        self._named: set[int] = set()
        self._cache = HashCache()
        self.last: Measurement | None = None
        self.took = 0.0

    def __call__(self, base: Measurement | None) -> Measurement:
        """Now, on top of what was recorded before."""
        started = time.monotonic()
        pid = self._pid()
        found = self._program(pid)
        if pid:
            said = self._links.modules()
            self._name_unguarded(said)
            found = found.merged(measure_process(pid, self._cache, base, said))
        if base is not None:
            found = replace(found, units=found.units | base.units)
        self.last, self.took = found, time.monotonic() - started
        return found

    def _name_unguarded(self, answered: Collection[int]) -> None:
        for peer in self._links.peers():
            if peer.pid in answered and not peer.guarded and peer.pid not in self._named:
                self._named.add(peer.pid)
                self._unguarded(peer.pid)

    def appraised(self) -> Collection[bytes]:
        """Digests of the last measurement: no news to a guard."""
        return frozenset(digest for _, digest in self.last.units) if self.last is not None else ()

    def _program(self, pid: int) -> Measurement:
        plan = self._plan
        units = {(UnitKind.EXECUTABLE, plan.program.digest)}
        hints = [UnitHint(plan.program.digest, plan.program.path, plan.program.name)]
        if plan.script is not None:
            units.add((plan.script_kind, plan.script.digest))
            hints.append(UnitHint(plan.script.digest, plan.script.path, plan.script.name))
        unknown = []
        if plan.unseen and not pid:
            reason = "text that an interpreter reads is not seen; its arguments: " + " ".join(plan.arguments)
            unknown.append(UnknownCode(None, f"interpreter {plan.program.name}", reason[:500]))
        return Measurement(
            units=frozenset(units),
            hints=tuple(hints),
            unknown=tuple(unknown),
            # There is no process yet, and ours is not it: an instance never moves to another.
            process=process_ref(pid) if pid else replace(process_ref(), pid=0, start_ticks=0),
            measured_at=time.time(),
        )
