"""Where the broker is and who this process is: arguments over environment over a TOML file."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from lockstep_client.errors import ConfigurationError

DEFAULT_CLUSTER = "lockstep"

_ENVIRONMENT = {
    "address": "LOCKSTEP_ADDRESS",
    "ca_file": "LOCKSTEP_CA_FILE",
    "cluster": "LOCKSTEP_CLUSTER",
    "identity_token_file": "LOCKSTEP_IDENTITY_TOKEN_FILE",
    "client_cert_file": "LOCKSTEP_CLIENT_CERT_FILE",
    "client_key_file": "LOCKSTEP_CLIENT_KEY_FILE",
    "http_url": "LOCKSTEP_HTTP_URL",
    "operator_token_file": "LOCKSTEP_OPERATOR_TOKEN_FILE",
}
CONFIG_VARIABLE = "LOCKSTEP_CONFIG"
_ADDRESS = re.compile(r"(?P<host>[^\s:\[\]]+|\[[0-9A-Fa-f:.%\w]+\]):(?P<port>[0-9]{1,5})")
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a connection needs. Secrets are file paths, read at each use.

    `address` is ``host:port``, or several separated by commas, tried in order.
    `ca_file` is PEM; empty means the system's roots. `cluster` is the broker
    cluster's name, the audience of proofs. `client_cert_file` and
    `client_key_file` make the connection mutual TLS (a SPIFFE identity).
    """

    address: str = ""
    ca_file: str = ""
    cluster: str = DEFAULT_CLUSTER
    identity_token_file: str = ""
    client_cert_file: str = ""
    client_key_file: str = ""
    http_url: str = ""
    operator_token_file: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """``host:port`` items in the order in which they are tried. Raises `ConfigurationError` for anything else."""
        found = tuple(item.strip() for item in self.address.split(",") if item.strip())
        for item in found:
            _check_address(item)
        return found

    def environment(self) -> dict[str, str]:
        """The settings as environment variables, for a child process."""
        return {name: value for key, name in _ENVIRONMENT.items() if (value := getattr(self, key))}


def variables() -> tuple[str, ...]:
    """The environment variables that are settings."""
    return (*_ENVIRONMENT.values(), CONFIG_VARIABLE)


def _check_address(text: str) -> None:
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match["port"]) <= _LAST_PORT:
        variable = _ENVIRONMENT["address"]
        raise ConfigurationError(f"{variable}: {text!r} is not host:port", setting=variable)


def load(
    arguments: Mapping[str, str | None] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    config: str | os.PathLike[str] | None = None,
) -> Settings:
    """Settings from `arguments` over `environ` (default: the process's) over a TOML file.

    The file is `config`, or what ``LOCKSTEP_CONFIG`` names; its keys are the
    field names of `Settings`. Raises `ConfigurationError` for an unreadable
    file, an unknown key, or a value that is no text.
    """
    env = os.environ if environ is None else environ
    path = config if config is not None else env.get(CONFIG_VARIABLE)
    found = _read_file(Path(path)) if path else {}
    for key, name in _ENVIRONMENT.items():
        if env.get(name):
            found[key] = env[name]
    for key, value in (arguments or {}).items():
        if value is not None:
            found[key] = value
    return Settings(**found)


def _read_file(path: Path) -> dict[str, str]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{CONFIG_VARIABLE}: {path}: {error}", setting=CONFIG_VARIABLE) from None
    except RecursionError:
        message = f"{CONFIG_VARIABLE}: {path}: is nested too deeply to be read"
        raise ConfigurationError(message, setting=CONFIG_VARIABLE) from None
    known = {field.name for field in fields(Settings)}
    for key, value in document.items():
        if key not in known:
            raise ConfigurationError(
                f"{path}: unknown key {key!r}; known: {', '.join(sorted(known))}", setting=key
            )
        if not isinstance(value, str):
            raise ConfigurationError(f"{path}: {key} must be text", setting=key)
    return dict(document)


def require(settings: Settings, field: str, purpose: str) -> str:
    """The value of a field; `ConfigurationError` with the ways to set it where it is empty."""
    value = getattr(settings, field)
    if not value:
        variable = _ENVIRONMENT[field]
        raise ConfigurationError(
            f'{purpose}: set {variable}, pass {field}=…, or write {field} = "…" in the file that '
            f"{CONFIG_VARIABLE} names",
            setting=variable,
        )
    return str(value)


def read_secret_file(path: str, setting: str) -> str:
    """A token's text, read anew at each use. Raises `ConfigurationError`."""
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        detail = error.strerror if isinstance(error, OSError) else "not ASCII"
        raise ConfigurationError(f"{setting}: {path}: {detail}", setting=setting) from None
    if not text:
        raise ConfigurationError(f"{setting}: {path} is empty", setting=setting)
    return text
