"""Table of a cutter: a database where logins and sessions are ended without waiting for the backend."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from broker.adapters.cutters.options import PostgresOptions
from broker.settings.server import Table
from broker.settings.values import File, Seconds, Text

Port = Annotated[int, Field(gt=0, lt=65536)]
Connections = Annotated[int, Field(gt=0, le=32)]


class PostgresCutter(Table):
    """PostgreSQL ≥ 15 with ``deploy/vault/postgres``; `host` may be the folder of a Unix socket."""

    kind: Literal["postgres"]
    host: Text
    port: Port = 5432
    database: Text
    user: Text = "lockstep_cutter"
    password_file: File | None = None
    certificate: File | None = None
    key: File | None = None
    ca_file: File | None = None
    tls: bool = True
    connections: Connections = 4
    command: Seconds = 2.0
    answer: Seconds = 5.0
    pause: Seconds = 0.05

    @model_validator(mode="after")
    def _sound(self) -> PostgresCutter:
        self.options()
        return self

    def options(self) -> PostgresOptions:
        """What the plug is made of. Raises ``ValueError``."""
        return PostgresOptions(
            host=self.host,
            port=self.port,
            database=self.database,
            user=self.user,
            password_file=str(self.password_file or ""),
            certificate=str(self.certificate or ""),
            key=str(self.key or ""),
            ca=str(self.ca_file or ""),
            tls=self.tls,
            connections=self.connections,
            command=self.command,
            answer=self.answer,
            pause=self.pause,
        )
