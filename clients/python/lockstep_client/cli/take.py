"""Commands that take trust back, and prove it: revoke, lift, receipts."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import click
import tenacity

from lockstep.v1 import oversight_pb2, revocation_pb2
from lockstep_client.cli import receipt_view, show
from lockstep_client.cli.propose import confirm, hits, instances, proposals, proposed, revoked, withdraw
from lockstep_client.cli.spans import SINCE_OPTION, Span
from lockstep_client.errors import InvalidRequest, Unavailable
from lockstep_client.operator import Operator
from lockstep_client.settings import load
from lockstep_client.words import plain, word

_TEXT = {
    "attestation": ("attestation_id", "One attested instance."),
    "lease": ("lease_id", "One lease."),
    "identity": ("identity", 'A SPIFFE ID, or "issuer|subject".'),
    "package": ("package", "A package URL with version: pkg:pypi/litellm@1.82.8."),
    "node": ("node", "Everything on a node."),
    "container": ("container_id", "One container."),
    "pod": ("pod_uid", "One pod, by uid."),
    "token": ("token_id", "One issued token, by its jti."),
}
_DIGEST = {
    "manifest": ("manifest", "Everything that runs under a manifest (SHA-256)."),
    "digest": ("digest", "Everything that has loaded a unit of code (SHA-256)."),
    "key": ("instance_key", "One instance key, by its RFC 7638 thumbprint."),
}


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    for name, (_, text) in reversed([*_TEXT.items(), *_DIGEST.items()]):
        command = click.option(f"--{name}", metavar="ID" if name in _TEXT else "HEX", help=text)(command)
    return command


@click.command()
@_selecting
@click.option(
    "--reason",
    default="",
    help="Why; kept in the log, the audit and the receipt. Needed, but with --confirm.",
)
@click.option("--ticket", default="", help="A ticket's number.")
@click.option(
    "--for",
    "span",
    type=Span(),
    metavar="TIME",
    help="How long a ban holds, such as 30m, 12h, 7d; without: until lifted.",
)
@click.option(
    "--ban/--cut",
    "ban",
    default=None,
    help="Refuse later grants too, or only kill earlier ones; else by kind.",
)
@click.option("--dry-run", is_flag=True, help="Only show which instances and leases would be hit.")
@click.option("--confirm", "proposal", default="", metavar="ID", help="Agree to what another has proposed.")
@click.option(
    "--preview", default="", metavar="HEX", help="With --confirm: what you agree to, if it hits more by now."
)
@show.JSON_OPTION
def revoke(
    reason: str,
    ticket: str,
    span: dt.timedelta | None,
    ban: bool | None,
    dry_run: bool,
    proposal: str,
    preview: str,
    as_json: bool,
    **targets: str | None,
) -> None:
    """Take back what a selector names, and everything that hangs on it.

    Where your right takes more than one operator (quorum), this proposes it:
    nothing is denied until others have confirmed. Exit code 1 where a
    confirmation was not taken, because it hits more than you were shown.

    \b
      lockstep revoke --attestation A-19 --reason INC-311
      lockstep revoke --package pkg:pypi/litellm@1.82.8 --reason INC-311 --dry-run
      lockstep revoke --confirm V-9
    """
    if proposal:
        given = [name for name, value in targets.items() if value]
        if given or reason or ticket or span is not None or ban is not None:
            raise click.UsageError(
                "--confirm: all else was said in the proposal; give --preview or --dry-run at most"
            )
        click.get_current_context().exit(
            0 if confirm(proposal, preview, dry_run=dry_run, as_json=as_json) else 1
        )
    if preview:
        raise click.UsageError("--preview: says what is agreed to with --confirm")
    if not reason:
        raise click.UsageError("Missing option '--reason': why; kept in the log, the audit and the receipt")
    selector = _selector(targets)
    until = None if span is None else dt.datetime.now(dt.UTC) + span
    with Operator(load()) as operator:
        answer = operator.revoke(
            selector, reason=reason, ticket=ticket, until=until, ban=ban, dry_run=dry_run, propose=True
        )
    if as_json:
        show.say_json(answer)
    elif dry_run:
        click.echo(f"would hit {hits(answer)}")
        instances(answer.preview)
    elif answer.HasField("proposal"):
        proposed(answer)
    else:
        revoked(answer)


@click.group(invoke_without_command=True)
@click.option("--open", "unsettled", is_flag=True, help="Only those whose receipt is not signed yet.")
@SINCE_OPTION
@show.JSON_OPTION
@click.pass_context
def revocations(context: click.Context, unsettled: bool, since: dt.datetime | None, as_json: bool) -> None:
    """What was revoked, why, and how far it has come.

    \b
      lockstep revocations --since 7d
      lockstep revocations --open
      lockstep revocations lift V-9 --reason "wrong version"
      lockstep revocations proposals
    """
    if context.invoked_subcommand is not None:
        return
    unsigned = (oversight_pb2.REVOCATION_STATE_COMMITTED, oversight_pb2.REVOCATION_STATE_CLEANING)
    with Operator(load()) as operator:
        found = list(operator.revocations(states=unsigned if unsettled else (), since=since))
    if as_json:
        show.say_json(found)
    else:
        show.table((_row(item) for item in found), _HEADER)


_HEADER = ("revocation", "at", "what", "acts", "hit", "state", "until", "by", "reason")


def _row(item: oversight_pb2.RevocationSummary) -> tuple[str, ...]:
    state = word(oversight_pb2.RevocationState, item.state, "REVOCATION_STATE_")
    if item.unconfirmed:
        state += f", {item.unconfirmed} unconfirmed"
    until = ""
    if item.HasField("lifted_at"):
        until = f"lifted {show.time(item.lifted_at)}"
    elif item.ban:
        until = show.time(item.until) or "until lifted"
    return (
        item.revocation_id,
        show.time(item.at),
        show.target(item.selector),
        " ".join(name for name, holds in (("cut", item.cut), ("ban", item.ban)) if holds),
        f"{item.attestations} instances, {item.leases} leases",
        state,
        until,
        item.actor,
        item.reason,
    )


@revocations.command()
@click.argument("revocation_id", metavar="ID")
@click.option("--reason", required=True, help="Why; kept in the log and the audit.")
@click.option("--ticket", default="", help="A ticket's number.")
@show.JSON_OPTION
def lift(revocation_id: str, reason: str, ticket: str, as_json: bool) -> None:
    """End a ban, so that new attestations are possible. Revives nothing.

    \b
      lockstep revocations lift V-… --reason "wrong version"
    """
    with Operator(load()) as operator:
        answer = operator.lift(revocation_id, reason=reason, ticket=ticket)
    if as_json:
        show.say_json(answer)
    else:
        click.echo(f"lifted; decision {answer.decision_id}, log position {answer.position.seq}")


revocations.add_command(proposals)
revocations.add_command(withdraw)


@click.command()
@click.argument("revocation_id", metavar="ID")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="How long to wait for it to be settled.",
)
@show.JSON_OPTION
def receipts(revocation_id: str, wait: float, as_json: bool) -> None:
    """Show the signed receipt of a revocation: what was done, when, and what is not confirmed yet.

    \b
      lockstep receipts V-… --wait 30
      lockstep receipts V-… --json >receipt.dsse.json

    With --json the DSSE envelope as it was signed, for whoever checks it. Exit code 75 where it is not
    settled yet: everything is denied, and something is still being cleaned.
    """
    with Operator(load()) as operator:
        settled = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda answer: not answer.envelope),
            wait=tenacity.wait_exponential(multiplier=0.1, max=2.0),
            stop=tenacity.stop_before_delay(wait) if wait else tenacity.stop_after_attempt(1),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        answer = settled(operator.receipt, revocation_id)
    if not answer.envelope:
        raise Unavailable(f"not settled yet: lockstep receipts {revocation_id} --wait 30")
    envelope = json.loads(answer.envelope)
    if as_json:
        click.echo(json.dumps(envelope, indent=2))
        return
    receipt = _payload(envelope)
    show.facts(receipt_view.head(receipt))
    click.echo()
    show.table(receipt_view.steps(receipt), ("step", "after", "what was found"))
    for line in receipt_view.unconfirmed(receipt):
        click.echo(f"not confirmed: {plain(line)}")
    click.echo("settled" if answer.complete else "not settled yet: more will be confirmed", err=True)


def _payload(envelope: dict[str, Any]) -> Any:
    try:
        return json.loads(base64.b64decode(envelope["payload"]))
    except (KeyError, ValueError, TypeError):
        raise InvalidRequest("the receipt is not a DSSE envelope") from None


def _selector(targets: dict[str, str | None]) -> revocation_pb2.Selector:
    given = {name: value for name, value in targets.items() if value}
    if len(given) != 1:
        raise click.UsageError(f"name exactly one target: {', '.join('--' + name for name in targets)}")
    ((name, value),) = given.items()
    if name in _TEXT:
        text: dict[str, Any] = {_TEXT[name][0]: value}
        return revocation_pb2.Selector(**text)
    try:
        digest = bytes.fromhex(value)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise click.UsageError(f"--{name}: 64 hexadecimal digits are expected")
    binary: dict[str, Any] = {_DIGEST[name][0]: digest}
    return revocation_pb2.Selector(**binary)
