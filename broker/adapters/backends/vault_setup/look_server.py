"""The server itself: product, version, and what its configuration says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from broker.adapters.backends.vault_setup.eyes import Eyes
from broker.adapters.backends.vault_setup.facts import Unseen

_DEFAULT_DURATION: Final = 90.0
"""Seconds that a listener lets a request last where nothing is said (OpenBao 2.7, Vault 1.15)."""
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


async def product_of(eyes: Eyes) -> tuple[str, str]:
    health = await eyes.ask("GET", "sys/health", token="")
    version = str(health.body.get("version", ""))
    mounts = await eyes.ask("GET", "sys/internal/ui/mounts")
    store = (mounts.data.get("auth") or {}).get("token/") or {}
    build = str(store.get("running_plugin_version", ""))
    if build:
        return ("openbao" if build.endswith(".bao") else "vault"), version
    # OpenBao began at 2.
    return ("vault" if version.startswith(("0.", "1.")) else "openbao"), version


async def config_of(eyes: Eyes) -> Mapping[str, Any] | Unseen:
    if not eyes.token:
        return Unseen("no operator's token")
    answer = await eyes.at_root().ask("GET", "sys/config/state/sanitized")
    return (
        answer.data if answer.ok else Unseen("the token may not read sys/config/state/sanitized of the root")
    )


async def standby_reads(
    config: Mapping[str, Any] | Unseen, product: str, version: str, eyes: Eyes
) -> bool | Unseen:
    if product == "vault" and "ent" not in version:
        return False  # its standbys forward everything
    # Whoever looks hears this, with a token or without: a server that is alone has no standbys.
    leader = await eyes.at_root().ask("GET", "sys/leader", token="")
    if leader.body.get("ha_enabled") is False:
        return False
    if isinstance(config, Unseen):
        return config
    key = "disable_performance_standby" if product == "vault" else "disable_standby_reads"
    return config.get(key) is not True


def max_request(config: Mapping[str, Any] | Unseen) -> float | Unseen:
    if isinstance(config, Unseen):
        return config
    usual = config.get("default_max_request_duration")
    longest = [float(usual) if isinstance(usual, int) and usual else _DEFAULT_DURATION]
    listeners = [
        item.get("config") or {} for item in config.get("listeners") or () if isinstance(item, Mapping)
    ]
    said = [seconds(item.get("max_request_duration")) for item in listeners]
    found = [longest[0] if item is None else item for item in said] or longest
    return max(found)


def seconds(text: Any) -> float | None:
    """A duration as Go writes it (``1m30s``), or whole seconds; None where it is neither."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text) or None
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", str(text or ""))
    if "".join(number + unit for number, unit in parts) != str(text or "") or not parts:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
