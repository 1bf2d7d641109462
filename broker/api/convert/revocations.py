"""Selectors, log entries and positions, both ways."""

from __future__ import annotations

from broker.api.convert.scalars import digest, from_timestamp, text, to_timestamp
from broker.errors import InvalidRequest
from broker.model.caller import OperatorCaller
from broker.model.requests import RevokeOrder
from broker.model.revocation import EntryKind, LogEntry, LogHead, Selector, SelectorKind
from lockstep.v1 import revocation_pb2 as pb

_TEXTS = {
    "attestation_id": SelectorKind.ATTESTATION,
    "lease_id": SelectorKind.LEASE,
    "identity": SelectorKind.IDENTITY,
    "package": SelectorKind.PACKAGE,
    "node": SelectorKind.NODE,
    "container_id": SelectorKind.CONTAINER,
    "pod_uid": SelectorKind.POD,
    "token_id": SelectorKind.TOKEN,
}
_DIGESTS = {
    "manifest": SelectorKind.MANIFEST,
    "digest": SelectorKind.DIGEST,
    "instance_key": SelectorKind.KEY,
}
_FIELDS = {kind: name for name, kind in (_TEXTS | _DIGESTS).items()}
_MAX = 2048


def selector(wire: pb.Selector) -> Selector:
    """Raises `InvalidRequest` where none is named or the value cannot be one."""
    kind = wire.WhichOneof("target")
    if kind in _TEXTS:
        return Selector(_TEXTS[kind], text(getattr(wire, kind), f"selector.{kind}", _MAX, empty=False))
    if kind in _DIGESTS:
        return Selector(_DIGESTS[kind], digest(getattr(wire, kind), f"selector.{kind}").hex())
    if kind == "process":
        process = wire.process
        node = text(process.node, "selector.process.node", 253, empty=False)
        boot = text(process.boot_id, "selector.process.boot_id", 64, empty=False)
        if "/" in node + boot or process.pid <= 0 or not process.start_ticks:
            raise InvalidRequest("selector.process: node, boot_id, pid and start_ticks name one process")
        return Selector(SelectorKind.PROCESS, f"{node}/{boot}/{process.pid}/{process.start_ticks}")
    raise InvalidRequest("selector: name one target")


def selector_message(noun: Selector) -> pb.Selector:
    """Total over the kinds."""
    if noun.kind is SelectorKind.PROCESS:
        node, boot, pid, ticks = noun.value.rsplit("/", 3)
        process = pb.ProcessInstance(node=node, boot_id=boot, pid=int(pid), start_ticks=int(ticks))
        return pb.Selector(process=process)
    message = pb.Selector()
    field = _FIELDS[noun.kind]
    setattr(message, field, bytes.fromhex(noun.value) if field in _DIGESTS else noun.value)
    return message


def position(log_id: str, seq: int, hashed: bytes) -> pb.LogPosition:
    """A position; the hash of nothing is empty."""
    return pb.LogPosition(log_id=log_id, seq=seq, hash=hashed if seq else b"")


def head(noun: LogHead) -> pb.LogPosition:
    """Where a log stands."""
    return position(noun.log_id, noun.seq, noun.hash)


_KINDS = {
    EntryKind.REVOKED: pb.EVENT_KIND_REVOKED,
    EntryKind.LIFTED: pb.EVENT_KIND_LIFTED,
    EntryKind.EXPANDED: pb.EVENT_KIND_EXPANDED,
}


def event(log_id: str, entry: LogEntry, *, reasons: bool) -> pb.RevocationEvent:
    """An entry as it is; `reasons` says whether why and by which decision is told."""
    body = entry.body
    return pb.RevocationEvent(
        position=position(log_id, entry.seq, entry.hash),
        kind=_KINDS[body.kind],
        selector=selector_message(body.selector),
        cut=body.cut,
        ban=body.ban,
        at=to_timestamp(body.at),
        until=None if body.until is None else to_timestamp(body.until),
        reason=body.reason if reasons else "",
        decision_id=body.decision_id if reasons else "",
        refers_to=body.refers_to,
        revocation_id=body.revocation_id if reasons else "",
    )


def introspect_older(noun: LogHead) -> pb.RevocationEvent:
    """What was granted before a position has to be asked about: the log began anew there."""
    return pb.RevocationEvent(position=head(noun), kind=pb.EVENT_KIND_INTROSPECT, cut=True)


def introspect_event(log_id: str, entry: LogEntry) -> pb.RevocationEvent:
    """A wide entry, told without saying what it names."""
    return pb.RevocationEvent(
        position=position(log_id, entry.seq, entry.hash),
        kind=pb.EVENT_KIND_INTROSPECT,
        cut=True,
        at=to_timestamp(entry.body.at),
    )


def expanded_event(log_id: str, entry: LogEntry) -> pb.RevocationEvent:
    """The end of one, as little told."""
    return pb.RevocationEvent(
        position=position(log_id, entry.seq, entry.hash),
        kind=pb.EVENT_KIND_EXPANDED,
        at=to_timestamp(entry.body.at),
        refers_to=entry.body.refers_to,
    )


def revoke_right(noun: Selector) -> str:
    """What it takes to revoke by a selector."""
    return f"revoke:{noun.kind}"


def revoke_order(wire: pb.RevokeRequest, caller: OperatorCaller) -> RevokeOrder:
    """Raises `InvalidRequest`."""
    named = selector(wire.selector)
    return RevokeOrder(
        selector=named,
        actor=caller.actor,
        reason=wire.reason,
        ticket=wire.ticket,
        until=from_timestamp(wire.until, "until") if wire.HasField("until") else None,
        ban=wire.ban if wire.HasField("ban") else None,
        dry_run=wire.dry_run,
        reach=caller.reach(revoke_right(named)),
        needs=caller.needs(revoke_right(named)),
        identity=caller.identity.name,
    )
