"""Cross checks of roles with the backends that make their secrets, and with the cutters that they name."""

from __future__ import annotations

from collections.abc import Iterator

from broker.adapters.backends.vault import check_parameters, login_call, revocability_of
from broker.crypto.keyfiles import KeyFileError, read_public
from broker.model.role import Revocability
from broker.settings.book import Tables
from broker.settings.gate import GateBackend
from broker.settings.problems import nearest
from broker.settings.tables import JwtBackend, RoleTable, RotateTable
from broker.settings.vault import VaultBackend

Fault = tuple[str, str, str, str]
"""(table, name, key below it, message)."""


def backend_faults(
    tables: Tables, backends: set[str], cutters: set[str], *, gate_key: bool
) -> Iterator[Fault]:
    """`backends` and `cutters` are the names that were written, sound or not; `gate_key`: whether there is one."""
    for name, table in tables.backends.items():
        if isinstance(table, VaultBackend):
            yield from _files(name, table)
        if isinstance(table, GateBackend):
            yield from _gate(name, table, tables, backends, gate_key=gate_key)
    for name, cutter in tables.cutters.items():
        options = cutter.options()
        try:
            options.password()
            options.context()
        except KeyFileError as error:
            yield "cutters", name, "", str(error)
    for name, role in tables.roles.items():
        backend = tables.backends.get(role.backend.use)
        if not isinstance(backend, JwtBackend) and backend is not None and role.possession == "required":
            message = f'what a {backend.kind} backend gives is a bearer secret; say possession = "bearer"'
            yield "roles", name, "possession", message
        if role.rotate is not None:
            yield from _rotation(name, role, role.rotate, backend)
        if not isinstance(backend, VaultBackend):
            continue
        parameters = tables.parameters[name]
        try:
            check_parameters(parameters, backend.mounts)
            offered = revocability_of(parameters, backend.mounts)
        except ValueError as error:
            yield "roles", name, "backend", str(error)
            continue
        if offered is Revocability.NEVER and role.static != "accepted":
            message = (
                'nobody can take this secret back; accept that with static = "accepted", or use another path'
            )
            yield "roles", name, "backend.path", message
        wanted = parameters.get("cutter")
        if wanted is not None and wanted not in cutters:
            message = f"there is no [cutters.{wanted}]{nearest(wanted, cutters)}"
            yield "roles", name, "backend.cutter", message


def _rotation(name: str, role: RoleTable, rotate: RotateTable, backend: object) -> Iterator[Fault]:
    if isinstance(backend, JwtBackend | GateBackend):
        message = "every renewal makes a new token; remove it, and say how long one lives with ttl"
        yield "roles", name, "rotate", message
    elif rotate.every + rotate.overlap > role.max_life:
        message = "a lease ends with max_life, before every and overlap are over; lengthen max_life"
        yield "roles", name, "rotate", message


def _gate(
    name: str, table: GateBackend, tables: Tables, backends: set[str], *, gate_key: bool
) -> Iterator[Fault]:
    vault = tables.backends.get(table.vault)
    if table.vault not in backends:
        message = f"there is no [backends.{table.vault}]{nearest(table.vault, backends)}"
        yield "backends", name, "vault", message
    elif vault is not None and not isinstance(vault, VaultBackend):
        message = f'[backends.{table.vault}] is of kind "{vault.kind}"; name one of kind "vault"'
        yield "backends", name, "vault", message
    if not gate_key:
        message = (
            "signs with keys.gate, and there is none; "
            "run: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out gate.pem"
        )
        yield "backends", name, "", message


def _files(name: str, table: VaultBackend) -> Iterator[Fault]:
    if table.ca_file is not None:
        try:
            read_public(table.ca_file, limit=4 * 1024 * 1024)
        except KeyFileError as error:
            yield "backends", name, "ca_file", str(error)
    # A projected token may come later, and goes and comes while the broker runs.
    if table.auth.token_file is None:
        try:
            login_call(table.auth.login())
        except KeyFileError as error:
            yield "backends", name, "auth", str(error)
