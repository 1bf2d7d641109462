"""Reports of code that nobody approved: the list of them, and a person's word on those that are held."""

from __future__ import annotations

import datetime as dt

import click

from lockstep.v1 import detection_pb2, oversight_pb2
from lockstep_client.cli import show
from lockstep_client.cli.spans import SINCE_OPTION
from lockstep_client.operator import Operator
from lockstep_client.settings import load
from lockstep_client.words import plain, word

_ENDS = ["applied", "observed", "duplicate", "unrelated", "unmatched", "rejected", "held", "dismissed"]
_HEADER = ("report", "at", "detector", "kind", "ended", "hit", "what", "because", "by")


@click.group(invoke_without_command=True)
@click.option("--state", "states", multiple=True, type=click.Choice(_ENDS), help="May be given again.")
@SINCE_OPTION
@show.JSON_OPTION
@click.pass_context
def detections(
    context: click.Context, states: tuple[str, ...], since: dt.datetime | None, as_json: bool
) -> None:
    """List reports of code that nobody approved, and how each ended.

    One that is held waits for a person: it is beyond its detector's cap, or a
    guess whom it means.

    \b
      lockstep detections --state held
      lockstep detections --since 24h
      lockstep detections approve R-7
      lockstep detections dismiss R-7 --reason "our own test"
    """
    if context.invoked_subcommand is not None:
        return
    wanted = [detection_pb2.DetectionState.Value(f"DETECTION_STATE_{state.upper()}") for state in states]
    with Operator(load()) as operator:
        found = list(operator.detections(states=wanted, since=since))
    if as_json:
        show.say_json(found)
        return
    show.table((_row(item) for item in found), _HEADER)
    held = [item.detection_id for item in found if item.state == detection_pb2.DETECTION_STATE_HELD]
    if held:
        click.echo(
            f"{len(held)} held; next: lockstep explain {held[0]}, then lockstep detections approve {held[0]} "
            f"or lockstep detections dismiss {held[0]} --reason ...",
            err=True,
        )


@detections.command()
@click.argument("detection_id", metavar="ID")
@click.option("--reason", default="", help="Why, beside what the report says.")
@click.option("--ticket", default="", help="A ticket's number.")
@show.JSON_OPTION
def approve(detection_id: str, reason: str, ticket: str, as_json: bool) -> None:
    """Let a held report do what it would have done without its detector's cap.

    Whom it named is revoked (or banned for a time, where the detector's action
    is quarantine) before this answers. The first word on a report counts: saying
    the same again changes nothing, and the contrary is refused.

    \b
      lockstep detections approve R-… --reason "both have it"
    """
    with Operator(load()) as operator:
        found = operator.approve(detection_id, reason=reason, ticket=ticket)
    if as_json:
        show.say_json(found)
        return
    click.echo(
        f"{found.detection_id}: {_ended(found)} by {plain(found.decided_by)}; {len(found.attestations)} instances, "
        f"decision {found.decision_id}"
    )
    click.echo(f"next: lockstep receipts {found.revocation_id}")


@detections.command()
@click.argument("detection_id", metavar="ID")
@click.option("--reason", required=True, help="Why; kept in the log and the audit.")
@click.option("--ticket", default="", help="A ticket's number.")
@show.JSON_OPTION
def dismiss(detection_id: str, reason: str, ticket: str, as_json: bool) -> None:
    """End a held report, and the timed ban that holds whom it named. Nobody is revoked.

    \b
      lockstep detections dismiss R-… --reason "the scanner's own file"
    """
    with Operator(load()) as operator:
        found = operator.dismiss(detection_id, reason=reason, ticket=ticket)
    if as_json:
        show.say_json(found)
        return
    click.echo(
        f"{found.detection_id}: {_ended(found)} by {plain(found.decided_by)}; decision {found.decision_id}"
    )


def _ended(item: oversight_pb2.DetectionSummary) -> str:
    return word(detection_pb2.DetectionState, item.state, "DETECTION_STATE_")


def _row(item: oversight_pb2.DetectionSummary) -> tuple[str, ...]:
    return (
        item.detection_id,
        show.time(item.received_at),
        item.detector,
        word(detection_pb2.DetectionKind, item.kind, "DETECTION_KIND_"),
        _ended(item),
        str(len(item.attestations)),
        item.object.path or item.object.name or item.object.digest.hex()[:12],
        item.reason,
        item.decided_by,
    )
