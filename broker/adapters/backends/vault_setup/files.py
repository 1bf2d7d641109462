"""The same set-up as files, for those who keep theirs in a repository: policies, the token role, a database's role."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from broker.adapters.backends.vault_setup.acts import broker_policy, credentials_policy, janitor_policy
from broker.adapters.backends.vault_setup.acts_engines import LIFE, URL, connection, connection_fields
from broker.adapters.backends.vault_setup.wanted import Use, Wanted, definition


def files(wanted: Wanted, statements: Mapping[str, str]) -> Mapping[str, str]:
    """Path → text, for every path that a command of `acts` writes and a file can hold; no secret is in any.

    `statements` are what we ship for PostgreSQL, by name (``creation``, ``revocation``,
    ``revocation-plain``).
    """
    made = {
        f"policies/{act.words[2]}.hcl": act.stdin
        for act in (broker_policy(wanted), credentials_policy(wanted), janitor_policy(wanted))
    }
    made["token-role.json"] = _json(wanted.token_role_body())
    for path, body in _databases(wanted, statements):
        made[f"{path}.json"] = _json(body)
    return made


def _databases(wanted: Wanted, statements: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    uses = {use.path: use for use in wanted.uses if use.engine == "database" and use.verb_of_path == "creds"}
    connections: dict[tuple[str, str], list[Use]] = {}
    for use in uses.values():
        connections.setdefault((use.mount, connection(use)), []).append(use)
        revocation = statements["revocation" if use.cutter else "revocation-plain"]
        body = {
            "db_name": connection(use),
            "creation_statements": [statements["creation"]],
            "revocation_statements": [revocation],
            **LIFE,
        }
        yield definition(use.path, use.engine), body
    for (mount, name), of_it in connections.items():
        target = next((use.target for use in of_it if use.target), {})
        where = {"host": "HOST", "port": 5432, "database": "DATABASE", **target, "ca": "CA.pem"}
        yield f"{mount}/config/{name}", {**connection_fields(of_it), "connection_url": URL.format(**where)}


def _json(body: Mapping[str, Any]) -> str:
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"
