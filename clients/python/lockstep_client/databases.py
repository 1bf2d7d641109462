"""A database login in the spellings that databases' own tools read: a connection URI, a password file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from lockstep_client.errors import InvalidRequest
from lockstep_client.secrets import Secret


def data_source(
    scheme: str,
    user: str,
    password: Secret,
    target: Mapping[str, Any],
    query: Mapping[str, str],
    role: str,
) -> Secret:
    """``scheme://user:password@host:port/database?query`` (libpq 34.1.1.2, RFC 3986).

    Raises `InvalidRequest` where the role does not name a host.
    """
    host = text(target.get("host"))
    if not host:
        raise InvalidRequest(
            f"{role!r} names no host: let its backend say target = {{ host = ..., database = ... }}"
        )
    port = text(target.get("port"))
    place = f"[{host}]" if ":" in host else quote(host, safe="")
    place += f":{port}" if port else ""
    database = quote(text(target.get("database")), safe="")
    end = f"?{urlencode(query)}" if query else ""
    who = f"{quote(user, safe='')}:{quote(password.reveal(), safe='')}"
    return Secret(f"{scheme}://{who}@{place}/{database}{end}")


def password_line(user: str, password: Secret, target: Mapping[str, Any]) -> str:
    """One line of a password file (libpq 34.16); what the role does not name matches anything."""
    fields = [text(target.get(name)) or "*" for name in ("host", "port", "database")]
    return ":".join([*map(_escaped, (*fields, user, password.reveal()))]) + "\n"


def service(name: str, user: str, password: Secret, target: Mapping[str, Any]) -> str:
    """One service of a connection service file (libpq 34.17)."""
    known = {"host": "host", "port": "port", "dbname": "database"}
    lines = [
        f"{key}={text(target.get(parameter))}" for key, parameter in known.items() if target.get(parameter)
    ]
    return "\n".join([f"[{name}]", *lines, f"user={user}", f"password={password.reveal()}", ""])


def _escaped(field: str) -> str:
    return field.replace("\\", "\\\\").replace(":", "\\:")


def text(value: Any) -> str:
    """A parameter of a role as text; "" for none."""
    # Numbers come as doubles: a Struct has no others.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)
