"""Options that several manifest commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from lockstep_client.manifest import ManifestError

KEY_VARIABLE: Final = "LOCKSTEP_SIGNER_KEY_FILE"
json_option: Callable[..., Any] = click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
yes_option: Callable[..., Any] = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
key_option: Callable[..., Any] = click.option(
    "--key", envvar=KEY_VARIABLE, help=f"Private key, PEM PKCS#8 [{KEY_VARIABLE}]."
)
reason_option: Callable[..., Any] = click.option("--reason", required=True, help="Why; kept in the record.")
ticket_option: Callable[..., Any] = click.option("--ticket", default="", help="Where it is discussed.")
days_option: Callable[..., Any] = click.option(
    "--valid-days", default=365, show_default=True, type=click.IntRange(1), help="How long it is valid."
)


def required_key(key: str | None) -> str:
    """The option's value; raises `ManifestError` where there is none."""
    if not key:
        raise ManifestError(f"a private key is needed: --key FILE, or set {KEY_VARIABLE}")
    return key
