"""One broker: everything that is built from a configuration, started and ended in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from broker.adapters.audit import AuditLines, AuditOutbox
from broker.adapters.clock import SystemClock
from broker.adapters.entropy import SystemEntropy
from broker.adapters.feed.local import LocalFeed
from broker.adapters.manifests.state import StateManifests
from broker.adapters.state.sqlite.store import SqliteState
from broker.api.answers import log_unexpected
from broker.api.drain import Drain
from broker.api.tls import CertificateError, Certificates
from broker.bootstrap import limits as bounds
from broker.bootstrap.doors import open_doors
from broker.bootstrap.generation import close_plugs, generation, watch_leases
from broker.bootstrap.live import Generation, Live
from broker.bootstrap.plugs import Parts
from broker.bootstrap.restoring import audit_path, refuse_a_copy
from broker.bootstrap.roots import ClientRoots
from broker.bootstrap.secret import challenge_secret
from broker.bootstrap.targets import Targets
from broker.bootstrap.verbs import Verbs, make_verbs
from broker.crypto.keyfiles import KeyFileError
from broker.crypto.ring import JwtRing, ring_from_files, ring_keys
from broker.errors import LockstepError, Unavailable
from broker.ports import Transaction
from broker.settings import ConfigurationRefused, Problem, Settings
from broker.settings.problems import shown
from broker.settings.server import Server, gate_issuer
from lockstep.formats import CHECKPOINT_TYPE, GATE_TYPE

Log = structlog.typing.FilteringBoundLogger

_PATIENCE: Final = 5.0


class Broker:
    """Start, reload, drain, stop; each of the last two may follow any other.

    `again` reads the configuration anew. Everything that a reload can change is
    one `Generation`, swapped whole.
    """

    def __init__(self, settings: Settings, again: Callable[[], Settings], log: Log) -> None:
        self._settings = settings
        self._again = again
        self._log = log
        self._clock = SystemClock()
        self._entropy = SystemEntropy()
        self._run = f"{settings.server.cluster}/{self._entropy.token(8).hex()}"
        self._drain = Drain()
        self._stop = asyncio.Event()
        self._ended: asyncio.Queue[BaseException] = asyncio.Queue(16)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        # What start has made, in order; stop takes it down in reverse.
        self._undo: list[Callable[[], Coroutine[Any, Any, None]]] = []

    @property
    def grace(self) -> float:
        """Seconds to drain."""
        return self._settings.server.limits.drain

    @property
    def tls_port(self) -> int:
        """0 where it is not served; also of the others."""
        return self._doors.tls_port

    @property
    def mtls_port(self) -> int:
        """For SPIFFE callers."""
        return self._doors.mtls_port

    @property
    def http_port(self) -> int:
        """HTTPS."""
        return self._doors.http_port

    async def start(self) -> None:
        """Ready when this returns; nothing is granted before the revocation state is loaded.

        1. keys, certificates, plugs: what can be wrong in files
        2. state, audit
        3. the feed: what is denied
        4. role versions recorded, verbs made
        5. doors, then upkeep, then SERVING

        Raises `ConfigurationRefused`, `KeyFileError`, `CertificateError`,
        `Unavailable` or `Conflict` (state), `ListenError`; call `stop` then, too.
        """
        server = self._settings.server
        keys = server.keys
        # 1
        active, others = ring_keys(keys.credentials.active, keys.credentials.old)
        self._ring = JwtRing(active, issuer=server.issuer, others=others)
        # The same keys with a type of their own: no checkpoint is a token, and no token a checkpoint.
        self._checkpoints = JwtRing(active, issuer=server.issuer, others=others, token_type=CHECKPOINT_TYPE)
        self._gate: JwtRing | None = None
        if keys.gate is not None:
            self._gate = ring_from_files(
                keys.gate.active,
                keys.gate.old,
                issuer=gate_issuer(server.issuer),
                token_type=GATE_TYPE,
            )
        self._roots = ClientRoots(server.tls.client_ca) if server.tls.client_ca is not None else None
        self._certificates = Certificates(
            server.tls.certificate, server.tls.key, self._roots.pem if self._roots is not None else None
        )
        secret_file = keys.challenge or server.state.path.parent / "challenge.secret"
        self._secret = challenge_secret(secret_file, self._entropy)
        # 2
        self._state = await SqliteState.open(
            server.state.path, self._clock, self._entropy, bounds.state(server.limits)
        )
        self._undo.append(self._state.close)
        self._manifests = StateManifests(self._state)
        self._live = Live(
            generation(self._settings, self._parts(self._settings), self._state, self._manifests)
        )
        self._undo.append(self._close_sources)
        watch_leases(self._live.generation)
        self._targets = Targets(self._live, self._log)
        await refuse_a_copy(self._state, server)
        self._audit = AuditOutbox(
            self._state,
            AuditLines.append_to(audit_path(server), self._run),
            self._clock,
            sign=lambda claims: self._checkpoints.sign({"iss": server.issuer, **claims}),
            every=server.audit.checkpoint,
            on_error=lambda error: self._log.error("the audit log lags behind", problem=error.message),
        )
        self._undo.append(self._audit.close)
        await self._audit.begin()
        # 3
        self._feed = await LocalFeed.load(self._state, self._clock, bounds.feed(server.limits), alone=True)
        # 4
        await self._record_roles(self._settings)
        self._verbs: Verbs = make_verbs(
            server,
            self._live,
            clock=self._clock,
            entropy=self._entropy,
            secret=self._secret,
            state=self._state,
            state_manifests=self._manifests,
            feed=self._feed,
            audit=self._audit,
            audited=lambda: self._audit.safe,
            log=self._log,
        )
        # 5
        self._undo.append(self._end_tasks)
        self._doors = open_doors(
            server,
            self._live,
            self._verbs,
            clock=self._clock,
            secret=self._secret,
            tokens=self._ring,
            gate_keys=self._gate,
            state=self._state,
            feed=self._feed,
            certificates=self._certificates,
            drain=self._drain,
            targets=self._targets,
            log=self._log,
        )
        self._undo.append(self._doors.stop)
        await self._doors.start()
        self._supervise("upkeep", self._verbs.upkeep.run(self._stop))
        self._supervise("follow", self._follow())
        self._supervise("audit", self._audit.run(self._stop))
        self._supervise("targets", self._targets.run(self._stop))
        await self._doors.ready()
        self._log.info(
            "ready",
            tls=self.tls_port,
            mtls=self.mtls_port,
            http=self.http_port,
            roles=len(self._settings.book.roles),
            denials=len(self._feed.denials),
        )

    async def reload(self) -> bool:
        """Roles, keys, certificates, detectors, operators: all of a new configuration, or nothing and why."""
        async with self._reloading:
            try:
                settings = self._again()
                self._check_restart(settings)
                fresh = generation(
                    settings, self._parts(settings), self._state, self._manifests, self._live.generation
                )
                await self._record_roles(settings)
                # Everything that can be wrong is read before anything is put in force.
                keys = settings.server.keys
                credentials = ring_keys(keys.credentials.active, keys.credentials.old)
                gate = ring_keys(keys.gate.active, keys.gate.old) if keys.gate is not None else None
                roots = self._roots.read() if self._roots is not None else b""
                self._doors.reload()
            except ConfigurationRefused as error:
                for problem in error.problems:
                    self._log.error("configuration refused", problem=str(problem))
                return False
            except (CertificateError, KeyFileError, ValueError) as error:
                self._log.error("configuration refused", problem=str(error))
                return False
            except LockstepError as error:
                self._log.error("configuration refused", problem=f"state: {error.message}")
                return False
            except Exception as error:  # noqa: BLE001 - what is served is worth more than a text that nobody foresaw
                # No text of it: it may have a line of the configuration in it.
                self._log.error("configuration refused", problem=f"cannot be read: {type(error).__name__}")
                return False
            if self._roots is not None:
                self._roots.replace(roots)
            self._ring.replace(*credentials)
            self._checkpoints.replace(*credentials)
            if self._gate is not None and gate is not None:
                self._gate.replace(*gate)
            last, self._live.generation, self._settings = self._live.generation, fresh, settings
            self._manifests.invalidate()
            watch_leases(fresh)
            self._targets.look_again()
            self._retire(last, fresh)
            self._log.info("reloaded", roles=len(settings.book.roles))
            return True

    async def drain(self, grace: float) -> None:
        """Health says NOT_SERVING, watchers are told, calls under way have `grace` seconds."""
        await self._doors.drain(grace)

    async def stop(self) -> None:
        """End what runs, then close what was opened, last first. May be called again."""
        self._stop.set()
        while self._undo:
            await self._undo.pop()()

    async def failed(self) -> BaseException:
        """Waits until a part that must not end has ended, and gives what ended it."""
        return await self._ended.get()

    # --- parts ------------------------------------------------------------------------------------

    def _parts(self, settings: Settings) -> Parts:
        return Parts(
            settings.server,
            self._ring,
            self._gate,
            lambda line: self._log.warning("source", problem=line),
            self._clock,
            self._entropy,
            self._run,
        )

    async def _record_roles(self, settings: Settings) -> None:
        """Decisions name a role's version: its text is kept before the first of them."""
        now = self._clock.now()

        async def work(tx: Transaction) -> None:
            for role in settings.book.roles.values():
                await tx.roles.record(role, now)

        await self._state.transact(work)

    def _check_restart(self, settings: Settings) -> None:
        changed = sorted(_fixed(self._settings.server).items() ^ _fixed(settings.server).items())
        if changed:
            name = changed[0][0]
            raise ConfigurationRefused(
                [
                    Problem(
                        shown(settings.file),
                        name,
                        "has changed; restart the broker for it, nothing was reloaded",
                    )
                ]
            )

    async def _follow(self) -> None:
        """Read the log's head again and again: whatever the feed was told, its age is bounded by this."""
        troubled = False
        while not self._stop.is_set():
            try:
                await self._feed.catch_up()
            except Unavailable as error:
                if not troubled:
                    self._log.error("the revocation state cannot be read", problem=error.message)
                troubled = True
            else:
                if troubled:
                    self._log.info("the revocation state is read again")
                troubled = False
            try:
                await asyncio.wait_for(self._stop.wait(), self._settings.server.limits.poll)
            except TimeoutError:
                continue

    def _supervise(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if self._stop.is_set() or task.cancelled():
            return
        error = task.exception() or RuntimeError(f"{task.get_name()} ended")
        log_unexpected(self._log, task.get_name(), error)
        self._ended.put_nowait(error)

    async def _end_tasks(self) -> None:
        """Those that hear `stop` end by themselves; a round of upkeep may be waiting for a backend."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=_PATIENCE)
        for task in late:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _close_sources(self) -> None:
        for _, plug in self._live.generation.sources.values():
            plug.close()
        if self._closing:
            await asyncio.wait(self._closing, timeout=_PATIENCE)
        await close_plugs(self._live.generation, None)

    def _retire(self, last: Generation, fresh: Generation) -> None:
        kept = {id(plug) for _, plug in fresh.sources.values()}
        for _, plug in last.sources.values():
            if id(plug) not in kept:
                plug.close()
        # Calls that are under way end first.
        closing = asyncio.create_task(close_plugs(last, fresh), name="close plugs")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _fixed(server: Server) -> dict[str, str]:
    """What only a restart changes: everything of the server but the keys that rings and receipts hold."""
    content = server.model_dump(mode="json", exclude={"keys": {"credentials", "receipts", "gate"}})
    content["keys"]["gate"] = server.keys.gate is not None
    return {
        f"{table}.{key}" if isinstance(below, dict) else table: json.dumps(value, sort_keys=True)
        for table, below in content.items()
        for key, value in (below.items() if isinstance(below, dict) else [("", below)])
    }
