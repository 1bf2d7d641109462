"""Kinds of values in a configuration: durations, sizes, addresses, paths, URLs, patterns."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZES: Final = {"": 1, "B": 1, "kB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}
_SIZE: Final = re.compile(r"(\d+)\s*([A-Za-z]*)")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MAX_SECONDS: Final = 10 * 366 * 86400.0


def duration(value: Any) -> float:
    """Seconds of ``"5m"``, ``"1h30m"``, ``"500ms"`` or a plain number. Raises ``ValueError``."""
    if isinstance(value, bool):
        raise ValueError('is no duration; write for example "5m", "30s", "1h30m" or seconds')
    if isinstance(value, int | float):
        seconds = float(value) if abs(value) <= _MAX_SECONDS else math.inf
    elif isinstance(value, str) and _DURATION.fullmatch(value):
        seconds = sum(float(count) * _UNITS[unit] for count, unit in _PART.findall(value))
    elif isinstance(value, str) and re.fullmatch(r"\d+(?:\.\d+)?", value):
        seconds = float(value)
    else:
        raise ValueError('is no duration; write for example "5m", "30s", "1h30m" or seconds')
    if not 0 < seconds <= _MAX_SECONDS:
        raise ValueError("must be longer than nothing and shorter than ten years")
    return seconds


def size(value: Any) -> int:
    """Bytes of ``"4MiB"``, ``"256KiB"`` or a plain number. Raises ``ValueError``."""
    if isinstance(value, int) and not isinstance(value, bool):
        count = value
    else:
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None or match[2] not in _SIZES:
            raise ValueError('is no size; write for example "4MiB", "256KiB" or bytes')
        count = int(match[1]) * _SIZES[match[2]]
    if not 0 < count <= 2**31 - 1:
        raise ValueError("must be more than nothing and less than 2 GiB")
    return count


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(value: Any) -> Address:
    """``host:port``, ``[v6]:port``. Raises ``ValueError``."""
    if isinstance(value, Address):
        return value
    if isinstance(value, str):
        host, colon, port = value.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        bare_v6 = ":" in host and not value.startswith("[")
        if colon and host and not bare_v6 and port.isascii() and port.isdigit() and int(port) < 65536:
            return Address(host, int(port))
    raise ValueError('is no address; write "host:port", for example "0.0.0.0:8443" or "[::]:8443"')


def _path(value: Any, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError('is no path; write it in quotes, for example "keys/platform.pub"')
    text = str(value)
    if "-----BEGIN" in text or text.startswith(("whsec_", "whsk_", "whpk_")):
        raise ValueError("holds a key itself; put it into a file (mode 0600) and write the file's path")
    if "\x00" in text:
        raise ValueError("is no path; it has a NUL in it")
    folder: Path = info.context["folder"] if info.context else Path()
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"is no path: there is no home of {text.partition('/')[0]} here") from None


def _url(value: str) -> str:
    if not value:
        raise ValueError('is empty; write for example "https://issuer.example"')
    if "|" in value:
        raise ValueError('has a "|", which separates issuer and subject in identity names; use another URL')
    parts = urlsplit(value)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError('is no issuer URL; write for example "https://issuer.example"')
    if parts.username or parts.password:
        raise ValueError("has a user or password in it; leave them out")
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("is no name; use letters, digits, dot, dash and underscore, at most 63")
    return value


def _pattern(value: str) -> str:
    # A pattern with nothing but wildcards is everybody whom the identity source knows.
    rest = value.removeprefix("spiffe://")
    if not rest.strip("*/ "):
        raise ValueError(
            f'"{value}" accepts everybody of the identity source; name the workload, for example '
            '"system:serviceaccount:pay:*"'
        )
    return value


Seconds = Annotated[float, BeforeValidator(duration)]
Bytes = Annotated[int, BeforeValidator(size)]
Listener = Annotated[Address, BeforeValidator(address)]
File = Annotated[Path, BeforeValidator(_path)]
Url = Annotated[str, AfterValidator(_url)]
Name = Annotated[str, AfterValidator(_name)]
Subject = Annotated[str, AfterValidator(_pattern)]
Count = Annotated[int, Field(gt=0, le=10**9)]
Text = Annotated[str, Field(min_length=1, max_length=1024)]
