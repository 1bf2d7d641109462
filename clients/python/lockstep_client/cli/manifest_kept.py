"""Manifest commands on what a broker keeps: publish, approve, compare, show, retire, withdraw, lower."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from lockstep_client.cli.failures import command_errors
from lockstep_client.cli.manifest_approve import propose
from lockstep_client.cli.manifest_files import read_bytes, read_manifest_file, validity, write_bytes
from lockstep_client.cli.manifest_options import (
    days_option,
    json_option,
    key_option,
    reason_option,
    required_key,
    ticket_option,
    yes_option,
)
from lockstep_client.cli.manifest_remote import Manifests, Target
from lockstep_client.cli.manifest_views import (
    begins_at,
    console,
    difference_facts,
    manifest_facts,
    say_json,
    show_difference,
    show_manifest,
    show_summaries,
    state_word,
    summary_facts,
    summary_line,
)
from lockstep_client.manifest import (
    CodeManifest,
    ManifestError,
    check_names,
    compare,
    read_payload,
    signing,
)
from lockstep_client.operator import Operator
from lockstep_client.settings import load
from lockstep_client.words import plain


@click.command()
@click.argument("file")
@json_option
@command_errors
def publish(file: str, as_json: bool) -> None:
    """Hand a signed manifest to the broker.

    \b
      lockstep manifest publish pay.dsse.json
    """
    manifest, _, signatures = read_manifest_file(file)
    if not signatures:
        raise ManifestError(f"{file} is not signed; next: lockstep manifest sign {file} --key KEY")
    with Operator(load()) as operator:
        _publish(Manifests(operator), manifest, read_bytes(file), as_json)


def _publish(manifests: Manifests, manifest: CodeManifest, envelope: bytes, as_json: bool) -> None:
    answer = manifests.publish(envelope)
    if as_json:
        say_json(
            {
                "in_force": answer.in_force,
                "signatures": {"present": answer.signatures_present, "required": answer.signatures_required},
                "decision": answer.decision_id,
                **summary_facts(answer.manifest),
            }
        )
    elif answer.in_force:
        begins = begins_at(answer.manifest)
        when = f"in force {begins}" if begins else "in force"
        click.echo(f"published {manifest.application}@{manifest.version}, {when} · {answer.decision_id}")
    elif answer.signatures_present >= answer.signatures_required:
        state = state_word(answer.manifest)
        click.echo(
            f"{manifest.application}@{manifest.version} is {state}, and stays so · {answer.decision_id}"
        )
        click.echo("  next: build the content with a higher --version")
    else:
        missing = answer.signatures_required - answer.signatures_present
        click.echo(
            f"kept {manifest.application}@{manifest.version}, not in force: "
            f"{answer.signatures_present} of {answer.signatures_required} signatures · {answer.decision_id}"
        )
        click.echo(
            f"  next: {missing} more signer{'' if missing == 1 else 's'}: lockstep manifest sign, then publish"
        )


@click.command()
@click.argument("before")
@click.argument("after")
@json_option
@command_errors
def diff(before: str, after: str, as_json: bool) -> None:
    """What changes from BEFORE to AFTER: files, or manifests of the broker (application[@version], digest).

    \b
      lockstep manifest diff pay@3 pay@4
      lockstep manifest diff pay pay.dsse.json
    """
    found = compare(_any(before).units, _any(after).units)
    if as_json:
        say_json(difference_facts(found))
    else:
        show_difference(found)


def _any(text: str) -> CodeManifest:
    if os.path.exists(text) or text == "-":
        return read_manifest_file(text)[0]
    with Operator(load()) as operator:
        _, envelope = Manifests(operator).get(Target.parse(text))
    return read_payload(signing.read_envelope(envelope)[0])


@click.command()
@click.option(
    "--from", "decision", required=True, metavar="DECISION", help="The decision that refused, or would have."
)
@click.option("--unit", multiple=True, metavar="PREFIX", help="Only units whose digest begins like this.")
@click.option("--application", "-a", default="", help="Default: the decision's.")
@click.option("--keep-old", is_flag=True, help="Keep the old version of a package that came in a new one.")
@key_option
@days_option
@yes_option
@json_option
@command_errors
def approve(
    decision: str,
    unit: tuple[str, ...],
    application: str,
    keep_old: bool,
    key: str | None,
    valid_days: int,
    yes: bool,
    as_json: bool,
) -> None:
    """Allow what a decision refused: build on what is in force, show the difference, sign, publish.

    \b
      lockstep manifest approve --from D-…
      lockstep manifest approve --from D-… --unit 73ab --key platform.pem
    """
    path = required_key(key)
    private = signing.load_signer(path)
    start, end = validity(valid_days, None, None)
    with Operator(load()) as operator:
        manifests = Manifests(operator)
        explained = manifests.explain(decision)
        name = application or explained.decision.application
        if not name:
            raise ManifestError(f"{decision} names no application: say which with --application")
        current = manifests.in_force(name)
        layers = manifests.layers(current.includes) if current is not None else {}
        proposal = propose(
            explained,
            application=name,
            current=current,
            included={entry.unit for units in layers.values() for entry in units},
            version=manifests.next_version(name),
            not_before=start,
            not_after=end,
            only=unit,
            keep_old=keep_old,
        )
        manifest = proposal.manifest
        if not as_json:
            _show_proposal(proposal.before, manifest, proposal.unapprovable)
        if not yes:
            signer = Path(path).stem
            click.confirm(f"publish {name}@{manifest.version}, signed by {signer}?", abort=True, err=as_json)
        _publish(manifests, manifest, signing.sign(manifest.payload(), private), as_json)


def _show_proposal(before: tuple[Any, ...], manifest: CodeManifest, unapprovable: tuple[str, ...]) -> None:
    found = compare(before, manifest.units)
    if before:
        show_difference(found)
    else:
        first, *rest = map(plain, summary_line(manifest.units) or [""])
        click.echo(first if first.startswith("!") else f"+ {first}")
        for line in rest:
            click.echo(line)
    for words, items in (
        ("anonymous executable memory allowed", manifest.anonymous),
        ("code without a file allowed", manifest.unknown),
        ("not approvable", unapprovable),
    ):
        if items:
            click.echo(plain(f"! {words}: {', '.join(items)}"))


@click.command(name="list")
@click.argument("application", default="")
@click.option("--all", "ended", is_flag=True, help="Retired, withdrawn and expired ones too.")
@json_option
@command_errors
def list_manifests(application: str, ended: bool, as_json: bool) -> None:
    """Manifests that the broker has.

    \b
      lockstep manifest list pay --all
    """
    with Operator(load()) as operator:
        items = Manifests(operator).list(application, ended=ended)
    if as_json:
        say_json([summary_facts(item) for item in items])
    else:
        show_summaries(items)


@click.command()
@click.argument("target")
@click.option("--output", "-o", default="", help="Also write the signed envelope to this file.")
@json_option
@command_errors
def show(target: str, output: str, as_json: bool) -> None:
    """One manifest: a file, or one of the broker's (application[@version], digest).

    \b
      lockstep manifest show pay@3 --output pay.dsse.json
      lockstep manifest show pay.dsse.json
    """
    signers: tuple[str, ...] = ()
    state = ""
    if os.path.exists(target) or target == "-":
        manifest, _, signatures = read_manifest_file(target)
        signers = tuple(name[:16] for name in signatures)
    else:
        with Operator(load()) as operator:
            summary, envelope = Manifests(operator).get(Target.parse(target))
        manifest = read_payload(signing.read_envelope(envelope)[0])
        signers, state = tuple(summary.signers), state_word(summary)
        if output:
            write_bytes(output, envelope)
    if as_json:
        say_json({"signers": list(signers), "state": state, **manifest_facts(manifest)})
        return
    show_manifest(manifest, signers)
    if state:
        console().print(f"  {'state':<10} {state}", markup=False)


@click.command()
@click.argument("target")
@reason_option
@ticket_option
@yes_option
@json_option
@command_errors
def retire(target: str, reason: str, ticket: str, yes: bool, as_json: bool) -> None:
    """No new starts under a manifest; what runs goes on.

    \b
      lockstep manifest retire pay@3 --reason "replaced by 4"
    """
    with Operator(load()) as operator:
        manifests = Manifests(operator)
        summary, _ = manifests.get(Target.parse(target))
        if not yes:
            click.confirm(f"retire {summary.application}@{summary.version}?", abort=True, err=as_json)
        answer = manifests.retire(summary.digest, reason, ticket)
    if as_json:
        say_json({"decision": answer.decision_id, **summary_facts(answer.manifest)})
    else:
        click.echo(f"retired {summary.application}@{summary.version} · {answer.decision_id}")


@click.command()
@click.argument("target")
@reason_option
@ticket_option
@yes_option
@json_option
@command_errors
def withdraw(target: str, reason: str, ticket: str, yes: bool, as_json: bool) -> None:
    """Revoke everything that runs under a manifest, for good: its version never comes back.

    \b
      lockstep manifest withdraw pay@3 --reason INC-311
    """
    with Operator(load()) as operator:
        manifests = Manifests(operator)
        summary, _ = manifests.get(Target.parse(target))
        if not yes:
            name = f"{summary.application}@{summary.version}"
            click.confirm(
                f"withdraw {name} and revoke everything that runs under it?", abort=True, err=as_json
            )
        answer = manifests.withdraw(summary.digest, reason, ticket)
    if as_json:
        say_json(
            {
                "decision": answer.decision_id,
                "revocation": answer.revocation_id,
                "attestations": answer.attestations,
                **summary_facts(answer.manifest),
            }
        )
    else:
        click.echo(
            f"withdrew {summary.application}@{summary.version}: {answer.attestations} instances revoked · "
            f"{answer.decision_id}"
        )
        click.echo(f"  next: lockstep receipts {answer.revocation_id}")


@click.command()
@click.argument("application")
@click.option("--to", "version", required=True, type=click.IntRange(1), help="The least version from now on.")
@reason_option
@ticket_option
@yes_option
@json_option
@command_errors
def lower(application: str, version: int, reason: str, ticket: str, yes: bool, as_json: bool) -> None:
    """Let older versions of an application be published again.

    \b
      lockstep manifest lower pay --to 3 --reason "4000 was a slip"

    Versions only grow, so that an old release cannot come back unnoticed; this is the way back, for example from
    a version that was far too great. What is in force stays so, and what was withdrawn never returns.
    """
    check_names(application, version)
    with Operator(load()) as operator:
        if not yes:
            click.confirm(f"accept {application}@{version} and later again?", abort=True, err=as_json)
        answer = Manifests(operator).lower(application, version, reason, ticket)
    if as_json:
        say_json(
            {
                "application": application,
                "min_version": version,
                "before": answer.before,
                "decision": answer.decision_id,
            }
        )
    else:
        click.echo(
            f"lowered {application}: version {version} or later, not {answer.before} · {answer.decision_id}"
        )
