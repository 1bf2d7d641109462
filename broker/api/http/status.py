"""/healthz, /readyz and /metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.responses import JSONResponse, Response

from broker.api.drain import Drain
from broker.api.http.app import Answer, Asked
from broker.api.limits import Limits
from broker.api.metrics import Metrics
from broker.errors import NotFound, Unavailable
from broker.model.account import AccountState
from broker.model.credential import LeaseState
from broker.ports import Clock, RevocationFeed, StateStore, Transaction
from lockstep.formats import Reason

_COUNT_PERIOD = 5.0
_MOST_STUCK = 1000
_LOOPBACK = ("127.", "::/64")


class Readiness:
    """Whether this replica may be sent callers: state loaded, current, and not on its way out."""

    def __init__(self, feed: RevocationFeed, drain: Drain, limits: Limits) -> None:
        self._feed = feed
        self._drain = drain
        self._limits = limits
        self._loaded = False

    def loaded(self) -> None:
        """The revocation state is loaded; until then everything is denied."""
        self._loaded = True

    def reasons(self) -> list[Reason]:
        """Why not; empty when ready."""
        found = []
        if self._drain.begun:
            found.append(Reason.DRAINING)
        if not self._loaded or self._feed.age() > self._limits.state_age:
            found.append(Reason.STATE_UNAVAILABLE)
        return found


class StatusRoom:
    """Answers without a caller's identity, and tells nothing but counts."""

    def __init__(
        self,
        readiness: Readiness,
        metrics: Metrics,
        store: StateStore,
        feed: RevocationFeed,
        clock: Clock,
        *,
        metrics_local_only: bool,
        components: Callable[[], Mapping[str, str]] = dict,
        given_up: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """`components` says how parts are that callers are not turned away for, by name; `given_up` how many leases
        each backend cannot take back."""
        self._readiness = readiness
        self._metrics = metrics
        self._store = store
        self._feed = feed
        self._clock = clock
        self._local_only = metrics_local_only
        self._components = components
        self._given_up = given_up
        self._counted_at = float("-inf")

    def answers(self) -> Mapping[tuple[str, str], Answer]:
        """(method, path) to answer."""
        return {
            ("GET", "/healthz"): self.health,
            ("GET", "/readyz"): self.ready,
            ("GET", "/metrics"): self.scrape,
        }

    async def health(self, _: Asked) -> Response:
        """The loop turns."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Asked) -> Response:
        """200, or 503 with the reasons. A backend that is away is shown, and no reason: denying goes on."""
        reasons = self._readiness.reasons()
        body = {
            "ready": not reasons,
            "reasons": [reason.value for reason in reasons],
            "components": dict(self._components()),
        }
        return JSONResponse(body, 503 if reasons else 200)

    async def scrape(self, asked: Asked) -> Response:
        """The counts, as OpenMetrics for whoever asks for that."""
        if self._local_only and not asked.call.address.startswith(_LOOPBACK):
            raise NotFound("no such path")
        self._metrics.feed(len(self._feed.denials), self._feed.age())
        self._metrics.given_up(self._given_up())
        await self._count()
        text, media = self._metrics.answer(asked.request.headers.get("accept", ""))
        return Response(text, media_type=media)

    async def _count(self) -> None:
        """Counting rows costs: once a period, however often somebody scrapes."""
        now = self._clock.monotonic()
        if now - self._counted_at < _COUNT_PERIOD:
            return
        self._counted_at = now

        async def work(tx: Transaction) -> tuple[Mapping[LeaseState, int], int, int]:
            stuck = await tx.accounts.page((AccountState.STUCK,), _MOST_STUCK)
            return await tx.leases.count(), await tx.attestations.count_alive(), len(stuck)

        try:
            leases, attestations, stuck = await self._store.read(work)
        except Unavailable:
            # The other numbers are wanted all the more.
            return
        self._metrics.state(leases, attestations, stuck)
