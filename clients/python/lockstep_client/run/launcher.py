"""The launcher: one queue of events, one loop that acts on them, one exit code.

A Python child is measured when it first opens its credential, or once it has
loaded nothing new for half a second: opening waits until the broker has
decided. Another program is measured before it starts, and again soon after.
"""

from __future__ import annotations

import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lockstep.formats import Reason
from lockstep_client.connection import Connection
from lockstep_client.errors import (
    EXIT_DENIED,
    EXIT_REVOKED,
    EXIT_UNAVAILABLE,
    ConfigurationError,
    Denied,
    InvalidRequest,
    LockstepError,
    Revoked,
    Unavailable,
)
from lockstep_client.evidence import Measured
from lockstep_client.holding import Attestation, Revocation
from lockstep_client.leases import LiveCredential
from lockstep_client.leaving import LEAVE_WITHIN
from lockstep_client.measure import statement
from lockstep_client.operator import Operator
from lockstep_client.run import signals
from lockstep_client.run.asking import Answer, Asking
from lockstep_client.run.child import Child
from lockstep_client.run.handover import Handover, private_folder
from lockstep_client.run.links import Links, Seen
from lockstep_client.run.measured import ChildMeasure
from lockstep_client.run.program import Plan, resolve
from lockstep_client.run.reactions import Act, Reaction
from lockstep_client.run.ways import handover
from lockstep_client.run.words import Words
from lockstep_client.settings import Settings

LOOK_AGAIN_AFTER = 1.0
"""Seconds after the start of a child that was measured before it: its libraries are mapped by then."""
_APPROVABLE = (Reason.APPRAISAL_FAILED, Reason.NO_MANIFEST)
_AGAIN = -1


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. `wait` in seconds."""

    command: tuple[str, ...]
    role: str
    output: str
    on_revoked: Reaction
    on_rotated: Reaction
    wait: float
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened: `kind` is wanted, answered, ended, revoked, rotated, lapsed, silent, leave or signal."""

    kind: str
    number: int = 0
    revocation: Revocation | None = None
    run: int = 0
    answer: Answer = Answer()


class Launcher:
    """Runs one command to its end. `say` prints a line for people."""

    def __init__(
        self, options: Options, settings: Settings, environ: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        self._options = options
        self._settings = settings
        self._environ = environ
        self._say = say
        self._words = Words(say, quiet=options.quiet)
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._child: Child | None = None
        self._run = 0
        self._credential: LiveCredential | None = None
        self._connection: Connection | None = None
        self._revoked = False

    def run(self, *, check: bool = False) -> int:
        """The exit code: the child's own, or 75, 77, 78."""
        plan = resolve(self._options.command, self._environ)
        try:
            with signals.Signals(lambda number: self._events.put(Event("signal", number=number))):
                while True:
                    with tempfile.TemporaryDirectory(
                        prefix="lockstep-run-", dir=private_folder() or None
                    ) as folder:
                        code = self._in(Path(folder), plan, check)
                    if code != _AGAIN:
                        return code
                    self._revoked, self._credential = False, None
        finally:
            plan.close()

    def _in(self, folder: Path, plan: Plan, check: bool) -> int:
        way = handover(self._options.output, folder)
        links = Links(folder, lambda: self._events.put(Event("wanted")), self._saw, self._lost)
        measure = ChildMeasure(
            plan, links, lambda: self._child.pid if self._child is not None else 0, self._words.unguarded
        )
        self._connection = connection = Connection(
            self._settings,
            roles=(self._options.role,),
            on_revoked=lambda revocation: self._events.put(Event("revoked", revocation=revocation)),
            evidence=lambda: Measured(measure, statement),
            silent=lambda: self._events.put(Event("silent")),
            leave=lambda code: self._events.put(Event("leave", number=code)),
        )
        asking = Asking(
            connection,
            self._options.role,
            self._options.wait,
            lambda: self._words.measured(measure.last, measure.took),
            lambda answer: self._events.put(Event("answered", answer=answer)),
        )
        try:
            return self._steps(connection, plan, way, links, measure, asking, check)
        finally:
            asking.close()
            child, self._child = self._child, None
            if child is not None:
                child.end()
            self._run += 1  # whatever is still said of it is of a run that is over
            way.take_back()
            links.close()
            connection.close()

    def _steps(
        self,
        connection: Connection,
        plan: Plan,
        way: Handover,
        links: Links,
        measure: ChildMeasure,
        asking: Asking,
        check: bool,
    ) -> int:
        arguments = plan.with_bootstrap(links.path, way.file)
        asks_itself = plan.python is not None and not way.before_start
        try:
            if asks_itself:
                self._start(plan, arguments, way)
            else:
                asking.begin(check=check)
            while True:
                event = self._events.get()
                if event.kind == "wanted":
                    if not asking.begun:
                        asking.begin(check=check)
                elif event.kind == "answered":
                    attestation = event.answer.verdict()
                    if check:
                        return self._words.checked(attestation, self._options.role, self._about)
                    self._granted(attestation, connection, way, links, measure)
                    if not asks_itself:
                        self._start(plan, arguments, way)
                        connection.look_soon(LOOK_AGAIN_AFTER)
                elif event.kind == "ended" and event.run == self._run:
                    return self._ended(event.number, check)
                elif event.kind == "signal":
                    code = self._pass_on(event.number)
                    if code is not None:
                        return code
                elif event.kind == "rotated":
                    if self._rotated(way) == _AGAIN:
                        return _AGAIN
                elif event.kind == "lapsed" and event.run == self._run:
                    self._give(way)
                elif event.kind == "silent":
                    way.take_back()  # given again with the next secret
                elif event.kind == "leave":
                    self._say("unavailable: no broker was heard for too long, and the role says to end then")
                    return event.number
                elif event.kind == "revoked" and event.revocation is not None:
                    code = self._taken_back(event.revocation, way)
                    if code is not None:
                        return code
        except Revoked as error:
            self._say(f"revoked: {error}")
            return EXIT_REVOKED
        except Denied as error:
            self._say(f"refused: {error}")
            if error.reason in _APPROVABLE:
                self._words.next(error.decision)
            return EXIT_DENIED
        except (ConfigurationError, InvalidRequest):
            raise
        except LockstepError as error:
            self._say(f"unavailable: {error}")
            return EXIT_UNAVAILABLE

    # --- steps ----------------------------------------------------------------------------------------

    def _granted(
        self,
        attestation: Attestation,
        connection: Connection,
        way: Handover,
        links: Links,
        measure: ChildMeasure,
    ) -> None:
        self._credential = credential = LiveCredential(connection, self._options.role)
        credential.on_rotated(lambda: self._events.put(Event("rotated")))
        self._words.granted(attestation, credential)  # before the program has it, and speaks itself
        self._warn_of_rotation(way, credential)
        way.give(credential)
        links.approve(measure.appraised())
        links.go()

    def _about(self, decision: str) -> Sequence[str]:
        """What a decision found, by package; nothing where it may not be asked for."""
        from lockstep_client.run import differing  # no start that is granted waits for it

        try:
            with Operator(self._settings) as asking:
                return differing.lines(asking.explain(decision))
        except LockstepError:
            return ()

    def _start(self, plan: Plan, arguments: Sequence[str], way: Handover) -> None:
        self._run += 1
        run = self._run
        environment = {**self._environ, **way.environment(), "LOCKSTEP_ROLE": self._options.role}
        self._child = Child(
            plan.program,
            arguments,
            environment,
            lambda code: self._events.put(Event("ended", number=code, run=run)),
        )
        way.started()

    def _ended(self, code: int, check: bool) -> int:
        self._child = None
        if check:
            self._say("the program ended before it could be measured")
            return code or 1
        if self._revoked and self._options.on_revoked.act not in (Act.SIGNAL, Act.NOTHING):
            return EXIT_REVOKED
        return code

    def _rotated(self, way: Handover) -> int | None:
        if self._credential is None or self._revoked:
            return None
        reaction = self._options.on_rotated
        if reaction.act is Act.RESTART:
            return _AGAIN  # another process is another instance, which proves itself
        if not self._give(way):
            return None
        if reaction.act is Act.SIGNAL and self._child is not None:
            self._child.signal(reaction.signal)
        elif reaction.act is Act.COMMAND:
            # Beside the events: a revocation does not wait for somebody's script.
            threading.Thread(target=self._command, args=(reaction,), daemon=True).start()
        return None

    def _give(self, way: Handover) -> bool:
        """What is valid now; False where nothing is."""
        if self._credential is None or self._revoked:
            return False
        try:
            way.give(self._credential)
        except (Revoked, Unavailable):
            return False  # its own event follows
        pause = way.lapses()
        if pause is not None:
            lapse = threading.Timer(pause, self._events.put, (Event("lapsed", run=self._run),))
            lapse.daemon = True
            lapse.start()
        return True

    def _taken_back(self, revocation: Revocation, way: Handover) -> int | None:
        self._revoked = True
        way.take_back()
        self._say(f"revoked: {revocation.reason}, lockstep explain {revocation.decision}")
        reaction = self._options.on_revoked
        if reaction.act is Act.SIGNAL and self._child is not None:
            self._child.signal(reaction.signal)
            return None
        if reaction.act is Act.COMMAND:
            # Code that nobody approved waits for it: not for long.
            self._command(reaction, LEAVE_WITHIN)
        if reaction.act is Act.NOTHING:
            return None
        child, self._child = self._child, None
        if child is not None:
            child.end()
            self._say(f"{os.path.basename(self._options.command[0])} ended")
        # A new run proves itself anew, and is refused where the ban still holds.
        return _AGAIN if reaction.act is Act.RESTART else EXIT_REVOKED

    def _command(self, reaction: Reaction, within: float = 60.0) -> None:
        try:
            subprocess.run(reaction.command, timeout=within, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            self._say(f"{reaction.command[0]}: {type(error).__name__}")

    def _saw(self, seen: Seen) -> None:
        if self._connection is not None:
            self._say(f"reported  {seen.name or seen.path} {seen.digest.hex()[:12]}")
            self._connection.report(seen)

    def _lost(self, count: int) -> None:
        if self._connection is not None and count:
            self._say(f"{count} observations of the program were lost")
            self._connection.parts().keeper.lose(count)

    # --- signals ----------------------------------------------------------------------------------------

    def _pass_on(self, number: int) -> int | None:
        """The exit code where there is no program whose business it is."""
        if self._child is None:
            return 128 + number if signals.ends(number) else None
        if not signals.has_it_already(self._child.pid, number):
            self._child.signal(number)
        return None

    def _warn_of_rotation(self, way: Handover, credential: LiveCredential) -> None:
        unheard = self._options.on_rotated.act is Act.NOTHING and not way.follows
        if credential.rotate_every and unheard:
            self._words.rotation_is_not_followed(credential, self._options.output)
