"""Secrets engines: how each is asked, how soon it takes back, and which parameters a role may give."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from broker.model.role import Revocability

_KEYS: Final = frozenset({"path", "engine", "method", "data", "revocability", "cutter", "target"})
_SEGMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")
_CLOSED: Final = frozenset({"sys", "auth", "identity", "cubbyhole"})
_MAX_PATH: Final = 512
_MAX_DATA: Final = 32
_STATIC: Final = frozenset({"static-creds", "static-cred"})


class Method(enum.StrEnum):
    """How the path is asked."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Engine:
    """One kind of engine. `strongest` is what a role may declare at most; `lives` puts the lease's seconds into
    the request as ``ttl``, `shortest` of them at least: what it asks makes nothing shorter, and refuses."""

    name: str
    method: Method
    revocability: Revocability
    strongest: Revocability
    lives: bool = False
    shortest: int = 0

    @property
    def kind(self) -> str:
        """The engine as Vault calls it; `name` may go on with what of it is meant."""
        return self.name.partition(" ")[0]


def _engine(
    name: str,
    method: Method,
    revocability: Revocability,
    strongest: Revocability | None = None,
    *,
    lives: bool = False,
    shortest: int = 0,
) -> Engine:
    return Engine(name, method, revocability, strongest or revocability, lives, shortest)


_AT_TARGET, _UNTIL, _NEVER = Revocability.AT_TARGET, Revocability.UNTIL_EXPIRY, Revocability.NEVER
ENGINES: Final[Mapping[str, Engine]] = {
    engine.name: engine
    for engine in (
        _engine("database", Method.READ, _AT_TARGET),
        _engine("rabbitmq", Method.READ, _AT_TARGET),
        _engine("ldap", Method.READ, _AT_TARGET),
        _engine("pki", Method.WRITE, _UNTIL, lives=True),
        _engine("ssh", Method.WRITE, _UNTIL, lives=True),
        # Accounts that they make can be dropped; tokens that they fetch of one that was there cannot: the role says
        # which it is.
        _engine("kubernetes", Method.WRITE, _UNTIL, _AT_TARGET, lives=True, shortest=600),
        _engine("aws", Method.READ, _UNTIL, _AT_TARGET),
        _engine("azure", Method.READ, _UNTIL, _AT_TARGET),
        _engine("gcp", Method.READ, _UNTIL, _AT_TARGET),
        _engine("kv", Method.READ, _NEVER),
        _engine("generic", Method.READ, _UNTIL, _AT_TARGET),
    )
}
USUAL_MOUNTS: Final[Mapping[str, str]] = {
    **{name: name for name in ENGINES if name != "generic"},
    "openldap": "ldap",
    "secret": "kv",
}
"""Engine by mount path, where nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a role's secret is made."""

    path: str
    mount: str
    engine: Engine
    method: Method
    data: Mapping[str, Any]
    revocability: Revocability


def plan(parameters: Mapping[str, Any], mounts: Mapping[str, str]) -> Plan:
    """`mounts` is engine by mount path. Raises ``ValueError`` that says which parameter is wrong."""
    unknown = sorted(parameters.keys() - _KEYS)
    if unknown:
        raise ValueError(f"{unknown[0]}: not a parameter of the vault backend")
    path = _path(parameters.get("path"))
    known = {**USUAL_MOUNTS, **{mount.strip("/"): engine for mount, engine in mounts.items()}}
    mount = max((item for item in known if path.startswith(f"{item}/")), key=len, default="")
    name = parameters.get("engine", known.get(mount))
    if name is None:
        raise ValueError(f'path: which engine is at "{path.split("/")[0]}" is not known; say engine')
    engine = ENGINES.get(name) if isinstance(name, str) else None
    if engine is None:
        raise ValueError(f"engine: must be one of {', '.join(sorted(ENGINES))}")
    mount = mount or path.split("/")[0]
    engine = _of_path(engine, path.removeprefix(f"{mount}/").split("/"))
    return Plan(
        path=path,
        mount=mount,
        engine=engine,
        method=_method(parameters.get("method"), engine),
        data=_data(parameters.get("data", {})),
        revocability=_revocability(parameters.get("revocability"), engine),
    )


def check_parameters(parameters: Mapping[str, Any], mounts: Mapping[str, str]) -> None:
    """Refuse parameters of a role that no secret could be made of. Raises ``ValueError`` that says which."""
    cutter = parameters.get("cutter", "-")
    if not isinstance(cutter, str) or not cutter:
        raise ValueError("cutter: must be the name of a cutter")
    target = parameters.get("target", {})
    if not isinstance(target, Mapping) or not all(
        isinstance(value, str | int) and not isinstance(value, bool) for value in target.values()
    ):
        raise ValueError("target: must be a table of texts and numbers, such as host, port, database")
    plan(parameters, mounts)


def revocability_of(parameters: Mapping[str, Any], mounts: Mapping[str, str]) -> Revocability:
    """How soon a secret of such a role is taken back. Raises ``ValueError``."""
    return plan(parameters, mounts).revocability


def swept_path(parameters: Mapping[str, Any], mounts: Mapping[str, str]) -> str:
    """The path whose leases are the role's own and can be taken back; empty where there are none."""
    found = plan(parameters, mounts)
    return found.path if found.revocability is _AT_TARGET else ""


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError('path: must say what is read, for example "database/creds/payments"')
    segments = value.split("/")
    if len(value) > _MAX_PATH or len(segments) < 2 or not all(map(_SEGMENT.fullmatch, segments)):
        raise ValueError("path: must be a mount and names below it, without a slash at either end")
    if segments[0] in _CLOSED:
        raise ValueError(f"path: {segments[0]}/ makes no secrets for workloads")
    return value


def _of_path(engine: Engine, below: list[str]) -> Engine:
    if engine.name in ("database", "ldap") and below[0] in _STATIC:
        # Rotated by the engine's own clock, and the same for everybody.
        return Engine(f"{engine.name} static", Method.READ, _NEVER, _NEVER)
    if engine.name == "aws" and below[0] == "sts":
        return _engine("aws sts", Method.WRITE, _UNTIL, lives=True, shortest=900)
    return engine


def _method(value: Any, engine: Engine) -> Method:
    if value is None:
        return engine.method
    if value not in list(Method):
        raise ValueError('method: must be "read" or "write"')
    return Method(value)


def _data(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or len(value) > _MAX_DATA:
        raise ValueError(f"data: must be a table of at most {_MAX_DATA} values")
    for name, item in value.items():
        if not isinstance(name, str) or not isinstance(item, str | int | bool):
            raise ValueError(f"data.{name}: must be a text, a whole number, true or false")
    return dict(value)


def _revocability(value: Any, engine: Engine) -> Revocability:
    if value is None:
        return engine.revocability
    try:
        declared = Revocability(value)
    except ValueError:
        words = ", ".join(item.value for item in Revocability)
        raise ValueError(f"revocability: must be one of {words}") from None
    if declared.rank < engine.strongest.rank:
        raise ValueError(f'revocability: {engine.name} offers "{engine.strongest.value}" at most')
    return declared
