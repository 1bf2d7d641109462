"""Commands that only ask: explain, leases, status."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import click

from lockstep.formats import Reason
from lockstep.v1 import attestation_pb2, credential_pb2, decision_pb2, evidence_pb2
from lockstep_client import messages, methods
from lockstep_client.callers import Anonymous
from lockstep_client.cli import show
from lockstep_client.operator import Operator
from lockstep_client.settings import load
from lockstep_client.verify.https import Https
from lockstep_client.words import plain, word

_SHOWN = 20
_REVOCATION = re.compile(r"\bV-[0-9a-z]{26}\b")


@click.command()
@click.argument("decision_id", metavar="ID")
@click.option(
    "--all", "everything", is_flag=True, help=f"Every unit that failed, not only the first {_SHOWN}."
)
@show.JSON_OPTION
def explain(decision_id: str, everything: bool, as_json: bool) -> None:
    """Why was this granted, refused or revoked?

    \b
      lockstep explain D-…
      lockstep explain A-… --json

    ID is a decision's (D-…), as errors, logs and receipts name it, or that of
    what was decided about: an attestation (A-…), a lease (L-…) or its token
    (T-…), a revocation (V-…), a report (R-…). Answers the identity concerned,
    the role's owner, and operators.
    """
    with Operator(load()) as operator:
        answer = operator.explain(decision_id)
    if as_json:
        show.say_json(answer)
        return
    decision = answer.decision
    mode = word(attestation_pb2.Mode, decision.mode, "MODE_")
    show.facts(
        [
            ("decision", decision.decision_id),
            ("what", word(decision_pb2.DecisionKind, decision.kind, "DECISION_KIND_")),
            ("when", show.time(decision.at)),
            ("verdict", decision.verdict),
            ("effect", _effect(decision.effect, mode)),
            ("identity", decision.identity),
            ("attestation", decision.attestation_id),
            ("role", decision.role),
            ("application", decision.application),
            ("manifests", " ".join(item.hex()[:12] for item in decision.manifests)),
            ("by", decision.actor),
            ("ticket", decision.ticket),
            ("revocation", decision.revocation_id),
            ("instances", str(decision.instances or "")),
            ("detail", decision.detail),
        ]
    )
    _findings(answer, everything)


def _effect(effect: str, mode: str) -> str:
    """Of a role that observes it is said, except where something counted all the same: a ban, a bad identity."""
    counted = effect in ("refused", "revoked", "quarantined")
    return f"{effect} (the role observes)" if mode == "observe" and not counted else effect


def _next(decision: decision_pb2.Decision) -> str:
    """What would change the verdict: no approval outweighs a ban."""
    if decision.verdict != Reason.BANNED:
        return f"lockstep manifest approve --from {decision.decision_id}"
    banned_by = _REVOCATION.search(decision.detail)
    return f"lockstep revocations lift {banned_by[0]} --reason …" if banned_by else ""


def _findings(answer: decision_pb2.ExplainDecisionResponse, everything: bool) -> None:
    decision = answer.decision
    if not decision.findings:
        return
    click.echo(f"\n{decision.findings_total} failed:")
    shown = decision.findings if everything else decision.findings[:_SHOWN]
    for finding in shown:
        kind = word(evidence_pb2.UnitKind, finding.kind, "UNIT_KIND_") if finding.kind else ""
        what = " ".join(
            part for part in (kind, finding.path or finding.name, finding.digest.hex()[:12]) if part
        )
        click.echo(f"  {finding.reason}: {plain(what)}")
    if decision.findings_total > len(shown):
        click.echo(f"  … and {decision.findings_total - len(shown)} more")
    for package in answer.nearest:
        click.echo(f"nearest: {plain(package)}")
    step = _next(decision)
    if step:
        click.echo(f"next: {step}")


@click.command()
@click.option("--attestation", default="", metavar="ID", help="Only those of one attestation.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(["pending", "active", "revoking", "revoked", "expired", "stuck"]),
    help="Only those in a state; may be given again.",
)
@click.option(
    "--stuck", is_flag=True, help="Those that cannot be taken back yet, and why; exit code 1 if any."
)
@show.JSON_OPTION
@click.pass_context
def leases(
    context: click.Context, attestation: str, states: tuple[str, ...], stuck: bool, as_json: bool
) -> None:
    """List leases: who holds what, until when, and how soon it can be taken back.

    \b
      lockstep leases --state active
      lockstep leases --stuck
    """
    if stuck and states:
        raise click.UsageError("give --stuck or --state, not both")
    wanted = [credential_pb2.LeaseState.Value(f"LEASE_STATE_{state.upper()}") for state in states]
    if stuck:
        wanted = [credential_pb2.LEASE_STATE_STUCK]
    with Operator(load()) as operator:
        found = list(operator.leases(attestation_id=attestation, states=wanted))
    if as_json:
        show.say_json(found)
    elif stuck:
        _stuck(found)
    else:
        _leases(found)
    if stuck and found:
        context.exit(1)


def _stuck(found: Sequence[credential_pb2.Lease]) -> None:
    if not found:
        click.echo("nothing is stuck")
        return
    show.table(
        (
            (
                lease.lease_id,
                lease.role,
                lease.cleaning.backend,
                str(lease.cleaning.attempts),
                show.time(lease.cleaning.next_attempt_at),
                lease.cleaning.detail,
                lease.attestation_id,
            )
            for lease in found
        ),
        ("lease", "role", "backend", "attempts", "next", "what was found", "attestation"),
    )


def _leases(found: Sequence[credential_pb2.Lease]) -> None:
    show.table(
        (
            (
                lease.lease_id,
                lease.role,
                word(credential_pb2.LeaseState, lease.state, "LEASE_STATE_"),
                word(attestation_pb2.Mode, lease.mode, "MODE_"),
                word(credential_pb2.Revocability, lease.revocability, "REVOCABILITY_"),
                "bound" if lease.possession_required else "bearer",
                show.time(lease.expires_at),
                lease.attestation_id,
                lease.identity,
            )
            for lease in found
        ),
        ("lease", "role", "state", "mode", "revocable", "possession", "expires", "attestation", "identity"),
    )


@click.command()
@show.JSON_OPTION
def status(as_json: bool) -> None:
    """Can the broker be reached, and as whom?

    \b
      lockstep status
      lockstep status --json

    Makes a real connection with the settings as they are; says which one is
    missing. Exit code 75 where nobody answers.
    """
    settings = load()
    who = settings.operator_token_file or settings.identity_token_file or settings.client_cert_file
    if not as_json:
        show.facts(
            [
                ("addresses", ", ".join(settings.addresses) or "none: set LOCKSTEP_ADDRESS"),
                ("authority", settings.ca_file or "the system's"),
                ("cluster", settings.cluster),
                ("identity", who or "nobody: set LOCKSTEP_IDENTITY_TOKEN_FILE"),
                ("HTTP door", settings.http_url),
            ]
        )
    with Operator(settings) as operator:
        key = messages.InstanceKey.generate()
        operator.transport.unary(methods.GET_CHALLENGE, messages.challenge(key), Anonymous())
        address = operator.transport.address
    if not as_json:
        click.echo(f"gRPC door  answers at {address}")
    if settings.http_url:
        Https(settings.ca_file).json(f"{settings.http_url.rstrip('/')}/.well-known/jwks.json")
        if not as_json:
            click.echo(f"HTTP door  answers at {settings.http_url}")
    if as_json:
        doors = {"grpc": address} | ({"http": settings.http_url} if settings.http_url else {})
        facts = {
            "addresses": list(settings.addresses),
            "authority": settings.ca_file,
            "cluster": settings.cluster,
            "identity": who,
            "answers": doors,
        }
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
