"""Table of a gate: which Vault takes our attestation tokens, at which JWT auth method."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from broker.adapters.backends.gate import LONGEST, GateOptions
from broker.settings.server import Table
from broker.settings.values import Seconds, Text


class GateBackend(Table):
    """`vault` is the backend whose login may disable entities; `audience` what the roles at `mount` are bound to."""

    class Parameters(Table):
        """What a role may say beside `use`: the role at Vault's JWT auth method."""

        role: Text

    kind: Literal["gate"]
    vault: Text
    mount: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}(/[A-Za-z0-9._-]{1,128})*$")]
    audience: Text
    ttl: Seconds = LONGEST

    @model_validator(mode="after")
    def _short(self) -> GateBackend:
        if not 10.0 <= self.ttl <= LONGEST:
            raise ValueError(f"ttl must be from 10 s to {LONGEST:g} s: a gate token is a bearer token")
        return self

    def options(self, max_request_duration: float) -> GateOptions:
        """What the plug is made of; the duration (seconds) is what its Vault says."""
        return GateOptions(self.mount, self.audience, self.ttl, max_request_duration)
