"""One token's way to the active node, for a check or a set-up: each call once, with a deadline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from broker.adapters.backends.vault import VaultOptions
from broker.adapters.backends.vault.nodes import NoActiveNode, Nodes
from broker.adapters.backends.vault.wire import Answer, Call, Lost, NotSent, Wire
from broker.adapters.backends.vault_setup.facts import Unseen
from broker.errors import Unavailable
from broker.ports import Clock
from lockstep.formats import Reason

_SAME: Final = "\0"


@dataclass(frozen=True, slots=True)
class Eyes:
    """Owned by one event loop. An empty `token` is nobody's."""

    wire: Wire
    root: Wire
    nodes: Nodes
    timeout: float
    token: str = field(default="", repr=False)

    async def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: str = _SAME,
        certificate: tuple[str, str] | None = None,
    ) -> Answer:
        """One call, with another token where one is given ("" for none). Raises `Unavailable`."""
        who = self.token if token == _SAME else token
        call = Call(method, path, body, who, certificate=certificate)
        try:
            answer = await self.wire.exchange(await self.nodes.active(), call, self.timeout)
        except (NoActiveNode, NotSent, Lost) as problem:
            raise Unavailable(Reason.BACKEND_UNAVAILABLE, f"Vault: {problem}") from None
        if answer.status >= 500 or answer.status in (307, 429):
            message = f"Vault: {path} answers {answer.status}"
            raise Unavailable(Reason.BACKEND_UNAVAILABLE, message)
        return answer

    async def read(self, path: str) -> Mapping[str, Any] | Unseen | None:
        """What an operator's token finds at a path; None where there is nothing. Raises `Unavailable`."""
        if not self.token:
            return Unseen("no operator's token")
        answer = await self.ask("GET", path)
        if answer.status == 404:
            return None
        return answer.data if answer.ok else Unseen(f"the token may not read {path}")

    def with_token(self, token: str) -> Eyes:
        """Somebody else's."""
        return replace(self, token=token)

    def at_root(self) -> Eyes:
        """The same token in the root namespace: some things of the server are answered there alone."""
        return replace(self, wire=self.root)


@contextmanager
def opened(options: VaultOptions, clock: Clock, token: str = "") -> Iterator[Eyes]:
    """Closed at the end."""
    wire = Wire(namespace=options.namespace, ca_file=options.ca_file, connections=2)
    root = Wire(namespace="", ca_file=options.ca_file, connections=2)
    try:
        yield Eyes(wire, root, Nodes(wire, clock, options.addresses), options.timeout, token)
    finally:
        wire.close()
        root.close()
