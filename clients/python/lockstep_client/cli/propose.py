"""Commands for a revocation that takes more than one operator: propose, confirm, withdraw, list."""

from __future__ import annotations

import click

from lockstep.v1 import revocation_pb2
from lockstep_client.cli import show
from lockstep_client.operator import Operator
from lockstep_client.settings import load
from lockstep_client.words import plain, word

_NAME = 16
"""Digits of a preview's digest that name it."""
_STATES = ["open", "confirmed", "withdrawn", "expired"]


def hits(counted: revocation_pb2.RevokeResponse | revocation_pb2.Preview) -> str:
    """``2 instances, 3 leases``."""
    return f"{counted.attestations} instances, {counted.leases} leases"


def instances(preview: revocation_pb2.Preview) -> None:
    """Who is hit, as far as they are named."""
    if not preview.instances:
        return
    show.table(
        (
            (item.attestation_id, " ".join(item.roles), str(item.leases), item.identity)
            for item in preview.instances
        ),
        ("attestation", "roles", "leases", "identity"),
    )
    more = preview.attestations - len(preview.instances)
    if more > 0:
        click.echo(f"… and {more} more")


def revoked(answer: revocation_pb2.RevokeResponse) -> None:
    """It is done."""
    click.echo(
        f"{answer.revocation_id}: {hits(answer)}; decision {answer.decision_id}, "
        f"log position {answer.position.seq}"
    )
    click.echo(f"next: lockstep receipts {answer.revocation_id}")


def proposed(answer: revocation_pb2.RevokeResponse) -> None:
    """It is not done yet."""
    found = answer.proposal
    click.echo(f"{found.proposal_id} is proposed, nothing is revoked: {hits(answer)}; {_missing(found)}")
    instances(answer.preview)
    _next(found)


def confirm(proposal_id: str, preview: str, *, dry_run: bool, as_json: bool) -> bool:
    """Agree to a proposal; False where it hits more than was shown, so that nothing was agreed to."""
    with Operator(load()) as operator:
        answer = operator.confirm(proposal_id, preview=preview, dry_run=dry_run)
    grown = answer.outcome == revocation_pb2.CONFIRM_OUTCOME_GROWN
    found = answer.proposal
    if as_json:
        show.say_json(answer)
    elif answer.outcome == revocation_pb2.CONFIRM_OUTCOME_REVOKED:
        revoked(answer.revocation)
        instances(answer.revocation.preview)
    elif answer.outcome == revocation_pb2.CONFIRM_OUTCOME_SHOWN:
        click.echo(
            f"{found.proposal_id} would hit {hits(found.preview)}, and was shown with {hits(answer.before)}"
        )
        instances(found.preview)
        click.echo(_missing(found))
        _next(found, named=True)
    elif grown:
        click.echo(
            f"{found.proposal_id} is not confirmed: it was shown with {hits(answer.before)}, "
            f"and would hit {hits(found.preview)}"
        )
        instances(found.preview)
        _next(found, named=True)
    else:
        click.echo(f"{found.proposal_id} is agreed to, nothing is revoked: {_missing(found)}")
        instances(found.preview)
        _next(found)
    return not grown


@click.command()
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="May be given again.")
@show.JSON_OPTION
def proposals(states: tuple[str, ...], as_json: bool) -> None:
    """List revocations that take more than one operator, and how each ended.

    \b
      lockstep revocations proposals --state open
      lockstep revoke --confirm V-9
      lockstep revocations withdraw V-9 --reason "wrong digest"
    """
    wanted = [revocation_pb2.ProposalState.Value(f"PROPOSAL_STATE_{state.upper()}") for state in states]
    with Operator(load()) as operator:
        found = list(operator.proposals(states=wanted))
    if as_json:
        show.say_json(found)
        return
    show.table(
        (
            (
                item.proposal_id,
                show.time(item.at),
                show.target(item.selector),
                "cut ban" if item.ban else "cut",
                hits(item.preview),
                word(revocation_pb2.ProposalState, item.state, "PROPOSAL_STATE_"),
                f"{len(item.agreed)} of {item.needs}",
                show.time(item.expires_at),
                " ".join(agreed.actor for agreed in item.agreed),
                item.reason,
            )
            for item in found
        ),
        ("proposal", "at", "what", "acts", "would hit", "state", "agreed", "until", "by", "reason"),
    )


@click.command()
@click.argument("proposal_id", metavar="ID")
@click.option("--reason", required=True, help="Why; kept in the audit.")
@show.JSON_OPTION
def withdraw(proposal_id: str, reason: str, as_json: bool) -> None:
    """End a proposal that waits: nothing was revoked, and nothing will be.

    \b
      lockstep revocations withdraw V-… --reason "the wrong package"
    """
    with Operator(load()) as operator:
        found = operator.withdraw(proposal_id, reason=reason)
    if as_json:
        show.say_json(found)
    else:
        click.echo(
            f"{found.proposal_id} is withdrawn by {plain(found.ended_by)}: {plain(found.ended_reason)}"
        )


def _missing(found: revocation_pb2.Proposal) -> str:
    return f"{len(found.agreed)} of {found.needs} operators have agreed, until {show.time(found.expires_at)}"


def _next(found: revocation_pb2.Proposal, *, named: bool = False) -> None:
    if named:
        name = found.preview.digest.hex()[:_NAME]
        click.echo(f"next: lockstep revoke --confirm {found.proposal_id} --preview {name}")
        return
    click.echo(f"next, another operator: lockstep revoke --confirm {found.proposal_id}")
