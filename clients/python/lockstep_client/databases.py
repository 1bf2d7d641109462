"""A database login in the spellings that databases' own tools read: a connection URI, a password file, a service file.

What a role's `target` says goes with it in every spelling: a login that came
without its ``sslmode`` would be sent to a server that nobody has verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from lockstep_client.errors import InvalidRequest
from lockstep_client.secrets import Secret

_VARIABLES: Final[Mapping[str, str]] = {
    "application_name": "PGAPPNAME",
    "channel_binding": "PGCHANNELBINDING",
    "client_encoding": "PGCLIENTENCODING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "dbname": "PGDATABASE",
    "fallback_application_name": "",
    "gssdelegation": "PGGSSDELEGATION",
    "gssencmode": "PGGSSENCMODE",
    "gsslib": "PGGSSLIB",
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "keepalives": "",
    "keepalives_count": "",
    "keepalives_idle": "",
    "keepalives_interval": "",
    "krbsrvname": "PGKRBSRVNAME",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
    "max_protocol_version": "PGMAXPROTOCOLVERSION",
    "min_protocol_version": "PGMINPROTOCOLVERSION",
    "options": "PGOPTIONS",
    "port": "PGPORT",
    "replication": "",
    "require_auth": "PGREQUIREAUTH",
    "requirepeer": "PGREQUIREPEER",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "sslcert": "PGSSLCERT",
    "sslcertmode": "PGSSLCERTMODE",
    "sslcompression": "PGSSLCOMPRESSION",
    "sslcrl": "PGSSLCRL",
    "sslcrldir": "PGSSLCRLDIR",
    "sslkey": "PGSSLKEY",
    "sslmode": "PGSSLMODE",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "sslrootcert": "PGSSLROOTCERT",
    "sslsni": "PGSSLSNI",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "tcp_user_timeout": "",
}
"""libpq's parameters (34.1.2) and their environment variables (34.15); "" for those without one.

Not among them: who logs in, with what, and where that stands; that is ours.
"""
_BREAKS: Final = "\r\n\0"
_LONGEST_LINE: Final = 1021
"""Bytes of a line in a service file, without its end: libpq refuses longer ones."""


def libpq(target: Mapping[str, Any], role: str) -> dict[str, str]:
    """What a role says of its target, under libpq's names; `database` is our word for ``dbname``.

    Raises `InvalidRequest` for what libpq does not know, or for a login: a
    connection that leaves out what the role asks for would look like it.
    """
    found: dict[str, str] = {}
    for key, value in target.items():
        name = "dbname" if key == "database" else key
        if name not in _VARIABLES:
            raise InvalidRequest(f"{role!r} has target.{key}, which is no parameter of libpq's for a target")
        if name in found:
            raise InvalidRequest(f"{role!r} has both target.database and target.dbname")
        found[name] = text(value)
    return {name: value for name, value in found.items() if value}


def data_source(
    scheme: str,
    user: str,
    password: Secret,
    target: Mapping[str, Any],
    query: Mapping[str, str],
    role: str,
) -> Secret:
    """``scheme://user:password@host:port/database?query`` (libpq 34.1.1.2, RFC 3986).

    The rest of the target goes into the query; what `query` says wins. Raises
    `InvalidRequest` where the role does not name a host, or, for schemes of
    PostgreSQL, says what libpq does not know.
    """
    if scheme.startswith("postgres"):
        rest = libpq(target, role)
        database = rest.pop("dbname", "")
    else:
        rest = {key: text(value) for key, value in target.items()}
        database = rest.pop("database", "")
    host, port = rest.pop("host", ""), rest.pop("port", "")
    if not host:
        raise InvalidRequest(
            f"{role!r} names no host: let its backend say target = {{ host = ..., database = ... }}"
        )
    place = f"[{quote(host, safe=':')}]" if ":" in host else quote(host, safe="")
    place += f":{port}" if port else ""
    # libpq takes a plus sign for itself, not for a space.
    asked = urlencode({**rest, **query}, quote_via=quote)
    end = f"?{asked}" if asked else ""
    who = f"{quote(user, safe='')}:{quote(password.reveal(), safe='')}"
    return Secret(f"{scheme}://{who}@{place}/{quote(database, safe='')}{end}")


def password_line(user: str, password: Secret, parameters: Mapping[str, str]) -> str:
    """One line of a password file (libpq 34.16); what the role does not name matches anything.

    Raises `InvalidRequest` for what cannot stand in one.
    """
    fields = [parameters.get(name) or "*" for name in ("host", "port", "dbname")]
    fields += [user, password.reveal()]
    if any(character in field for field in fields for character in _BREAKS):
        raise InvalidRequest("the login or its target has a line break: no password file holds it")
    return ":".join(map(_escaped, fields)) + "\n"


def variables(parameters: Mapping[str, str], role: str) -> dict[str, str]:
    """The target as libpq's environment variables. Raises `InvalidRequest` for what has none."""
    for name in parameters:
        if not _VARIABLES[name]:
            raise InvalidRequest(f"{role!r} has target.{name}, for which libpq has no environment variable")
    return {_VARIABLES[name]: value for name, value in parameters.items()}


def service(name: str, user: str, password: Secret, parameters: Mapping[str, str]) -> str:
    """One service of a connection service file (libpq 34.17).

    libpq knows no quoting there: a line ends its value, and loses blanks at its
    end. Raises `InvalidRequest` for what it would read as something else.
    """
    lines = [f"[{name}]"]
    for key, value in {**parameters, "user": user, "password": password.reveal()}.items():
        line = f"{key}={value}"
        if any(character in value for character in _BREAKS) or value != value.rstrip():
            raise InvalidRequest(
                f"the {key} has a line break, or blanks at its end: no service file holds it"
            )
        if len(line.encode()) > _LONGEST_LINE:
            raise InvalidRequest(f"the {key} is longer than a line of a service file")
        lines.append(line)
    return "\n".join([*lines, ""])


def _escaped(field: str) -> str:
    return field.replace("\\", "\\\\").replace(":", "\\:")


def text(value: Any) -> str:
    """A parameter of a role as text; "" for none."""
    # Numbers come as doubles: a Struct has no others.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)
