"""How answers look in a terminal, and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import click
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from lockstep.v1 import revocation_pb2
from lockstep_client.words import plain

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")


def say_json(messages: Message | Sequence[Message]) -> None:
    """Wire names, in JSON; digests in base64, as protobuf's JSON has them."""
    if isinstance(messages, Message):
        value: object = _plain(messages)
    else:
        value = [_plain(item) for item in messages]
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _plain(message: Message) -> object:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def table(rows: Iterable[Sequence[str]], header: Sequence[str]) -> None:
    """Columns as wide as they need to be; "nothing", for people alone, where there is no row."""
    rows = [tuple(map(plain, row)) for row in rows]
    if not rows:
        click.echo("nothing", err=True)
        return
    everything = [tuple(header), *rows]
    widths = [max(len(row[index]) for row in everything) for index in range(len(header))]
    for row in everything:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Name and value, a line each; empty values are left out."""
    shown = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name.ljust(width)}  {plain(value)}")


def time(stamp: Timestamp) -> str:
    """UTC to the second; empty where unset."""
    return f"{stamp.ToDatetime():%Y-%m-%d %H:%M:%SZ}" if stamp.seconds else ""


def target(selector: revocation_pb2.Selector) -> str:
    """What a revocation is aimed at: ``package pkg:pypi/x@1``; digests by their first twelve digits."""
    kind = selector.WhichOneof("target")
    if kind is None:
        return ""
    value = getattr(selector, kind)
    name = kind.removesuffix("_id").removesuffix("_uid").replace("_", " ")
    if kind == "process":
        return f"{name} {value.node}/{value.pid}"
    return f"{name} {value.hex()[:12] if isinstance(value, bytes) else value}"
