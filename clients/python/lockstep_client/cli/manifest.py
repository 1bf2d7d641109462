"""``lockstep manifest``: say which code may run, sign it, and keep it in step with what is deployed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click

from lockstep_client.cli.failures import command_errors
from lockstep_client.cli.manifest_approve import propose
from lockstep_client.cli.manifest_files import (
    compile_sources,
    read_bytes,
    read_manifest_file,
    validity,
    write_bytes,
)
from lockstep_client.cli.manifest_remote import Manifests, Target
from lockstep_client.cli.manifest_views import (
    console,
    difference_facts,
    manifest_facts,
    progress,
    say_json,
    show_difference,
    show_manifest,
    show_remarks,
    show_summaries,
    state_word,
    summary_facts,
    summary_line,
)
from lockstep_client.manifest import Builder, CodeManifest, ManifestError, compare, read_payload, signing
from lockstep_client.operator import Operator
from lockstep_client.settings import load

_KEY_VARIABLE: Final = "LOCKSTEP_SIGNER_KEY_FILE"
_json: Callable[..., Any] = click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
_yes: Callable[..., Any] = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
_key: Callable[..., Any] = click.option(
    "--key", envvar=_KEY_VARIABLE, help=f"Private key, PEM PKCS#8 [{_KEY_VARIABLE}]."
)
_reason: Callable[..., Any] = click.option("--reason", required=True, help="Why; kept in the record.")
_ticket: Callable[..., Any] = click.option("--ticket", default="", help="Where it is discussed.")
_days: Callable[..., Any] = click.option(
    "--valid-days", default=365, show_default=True, type=click.IntRange(1), help="How long it is valid."
)


@click.group(name="manifest")
def manifest_group() -> None:
    """Which code an application may run: build, sign, publish, compare."""


@manifest_group.command()
@click.option("--application", "-a", required=True, help="Its name in the broker's configuration.")
@click.option("--version", default=1, show_default=True, type=click.IntRange(1), help="Only ever grows.")
@click.option("--label", default="", help="For people: a tag, a commit.")
@click.option("--environment", "-e", multiple=True, help="A virtual environment, with its interpreter.")
@click.option("--app", multiple=True, help="A folder or file of the application's own code.")
@click.option("--site-packages", multiple=True, help="A folder of installed packages.")
@click.option("--interpreter", multiple=True, help="A Python, with its standard library.")
@click.option("--image", multiple=True, help="The root folder of an unpacked image.")
@click.option("--pid", multiple=True, type=int, help="What a running process has mapped.")
@click.option("--base", multiple=True, help="A manifest file whose units are taken over.")
@click.option("--include", multiple=True, help="Another application's manifest to include, by name.")
@click.option("--anonymous", multiple=True, help="Allow anonymous executable memory, such as rwxp (libffi).")
@click.option("--unknown", multiple=True, help="Allow code without a file, by name, such as 'python -c'.")
@click.option("--not-before", type=click.DateTime(), help="UTC; default: today.")
@click.option("--not-after", type=click.DateTime(), help="UTC; default: by --valid-days.")
@_days
@click.option("--compile", "compiles", is_flag=True, help="Write missing bytecode first, as imports would.")
@click.option("--output", "-o", default="", help="File, or - for standard output.")
@_json
@command_errors
def build(
    application: str,
    version: int,
    label: str,
    environment: tuple[str, ...],
    app: tuple[str, ...],
    site_packages: tuple[str, ...],
    interpreter: tuple[str, ...],
    image: tuple[str, ...],
    pid: tuple[int, ...],
    base: tuple[str, ...],
    include: tuple[str, ...],
    anonymous: tuple[str, ...],
    unknown: tuple[str, ...],
    not_before: datetime | None,
    not_after: datetime | None,
    valid_days: int,
    compiles: bool,
    output: str,
    as_json: bool,
) -> None:
    """Build a manifest from what is here. The same input gives the same bytes."""
    if not (environment or app or site_packages or interpreter or image or pid or base):
        raise ManifestError("nothing to build from: for example --environment .venv --app src")
    start, end = validity(valid_days, not_before, not_after)
    if compiles:
        for folder in environment:
            compile_sources(str(Path(folder, "bin", "python")), [folder, *app])
        if not environment:
            compile_sources(interpreter[0] if interpreter else sys.executable, [*site_packages, *app])
    with progress(not as_json) as told:
        builder = Builder(progress=told)
        _gather(builder, environment, app, site_packages, interpreter, image, pid)
    for path in base:
        builder.collection.add_units(read_manifest_file(path)[0].units)
    manifest = CodeManifest(
        application=application,
        version=version,
        units=builder.collection.units(),
        not_before=start,
        not_after=end,
        label=label,
        includes=include,
        anonymous=anonymous,
        unknown=unknown,
    )
    path = output or f"{application}-{version}.json"
    write_bytes(path, manifest.payload())
    if as_json:
        if path != "-":
            say_json({"path": path, **manifest_facts(manifest)})
        return
    show_remarks(builder.remarks)
    if path != "-":
        for line in summary_line(manifest.units):
            click.echo(line)
        click.echo(f"wrote {path}: {application}@{version}, {len(manifest.units):,} units")
        click.echo(f"  next: lockstep manifest sign {path} --key KEY")


def _gather(
    builder: Builder,
    environment: tuple[str, ...],
    app: tuple[str, ...],
    site_packages: tuple[str, ...],
    interpreter: tuple[str, ...],
    image: tuple[str, ...],
    pid: tuple[int, ...],
) -> None:
    for folder in environment:
        builder.environment(folder)
    for python in interpreter:
        builder.interpreter(python)
    for folder in site_packages:
        builder.site_packages(folder)
    for path in app:
        builder.application(path)
    for root in image:
        builder.image(root)
    for process in pid:
        builder.process(process)
    if environment or interpreter:
        builder.libraries()


@manifest_group.command()
@click.argument("file")
@_key
@click.option(
    "--output", "-o", default="", help="Default: FILE with .dsse.json, or FILE itself if signed already."
)
@_json
@command_errors
def sign(file: str, key: str | None, output: str, as_json: bool) -> None:
    """Sign a manifest, or add a signature to one that is signed already."""
    manifest, payload, signatures = read_manifest_file(file)
    private = signing.load_signer(_required_key(key))
    if signatures:
        envelope = signing.add_signature(read_bytes(file), private)
    else:
        envelope = signing.sign(payload, private)
    path = output or (file if signatures or file == "-" else f"{file.removesuffix('.json')}.dsse.json")
    write_bytes(path, envelope)
    name = signing.key_id(private.public_key())
    if as_json and path != "-":
        say_json({"path": path, "keyid": name, "digest": manifest.digest.hex()})
    elif path != "-":
        click.echo(f"wrote {path}: {manifest.application}@{manifest.version} signed by {name[:16]}")
        click.echo(f"  next: lockstep manifest publish {path}")


@manifest_group.command()
@click.argument("file")
@click.option(
    "--public", multiple=True, required=True, help="A signer's public key, PEM; several times for k of n."
)
@click.option(
    "--threshold", default=1, show_default=True, type=click.IntRange(1), help="How many must have signed."
)
@_json
@command_errors
def verify(file: str, public: tuple[str, ...], threshold: int, as_json: bool) -> None:
    """Check signatures; the exit code says it."""
    keys = {path: signing.load_public(path) for path in public}
    payload, names = signing.verify(read_bytes(file), keys.values(), threshold)
    signers = [path for path, key in keys.items() if signing.key_id(key) in names]
    manifest = read_payload(payload)
    if as_json:
        say_json({"signers": signers, **manifest_facts(manifest)})
    else:
        click.echo(f"{manifest.application}@{manifest.version} is signed by {', '.join(signers)}")


@manifest_group.command()
@click.argument("file")
@_json
@command_errors
def publish(file: str, as_json: bool) -> None:
    """Hand a signed manifest to the broker."""
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
        click.echo(f"published {manifest.application}@{manifest.version}, in force · {answer.decision_id}")
    else:
        missing = answer.signatures_required - answer.signatures_present
        click.echo(
            f"kept {manifest.application}@{manifest.version}, not in force: "
            f"{answer.signatures_present} of {answer.signatures_required} signatures · {answer.decision_id}"
        )
        click.echo(
            f"  next: {missing} more signer{'' if missing == 1 else 's'}: lockstep manifest sign, then publish"
        )


@manifest_group.command()
@click.argument("before")
@click.argument("after")
@_json
@command_errors
def diff(before: str, after: str, as_json: bool) -> None:
    """What changes from BEFORE to AFTER: files, or manifests of the broker (application[@version], digest)."""
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


@manifest_group.command()
@click.option(
    "--from", "decision", required=True, metavar="DECISION", help="The decision that refused, or would have."
)
@click.option("--unit", multiple=True, metavar="PREFIX", help="Only units whose digest begins like this.")
@click.option("--application", "-a", default="", help="Default: the decision's.")
@click.option("--keep-old", is_flag=True, help="Keep the old version of a package that came in a new one.")
@_key
@_days
@_yes
@_json
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
    """Allow what a decision refused: build on what is in force, show the difference, sign, publish."""
    path = _required_key(key)
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
            version=manifests.newest_version(name) + 1,
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
        first, *rest = summary_line(manifest.units) or [""]
        click.echo(first if first.startswith("!") else f"+ {first}")
        for line in rest:
            click.echo(line)
    for words, items in (
        ("anonymous executable memory allowed", manifest.anonymous),
        ("code without a file allowed", manifest.unknown),
        ("not approvable", unapprovable),
    ):
        if items:
            click.echo(f"! {words}: {', '.join(items)}")


@manifest_group.command(name="list")
@click.argument("application", default="")
@click.option("--all", "ended", is_flag=True, help="Retired, withdrawn and expired ones too.")
@_json
@command_errors
def list_manifests(application: str, ended: bool, as_json: bool) -> None:
    """Manifests that the broker has."""
    with Operator(load()) as operator:
        items = Manifests(operator).list(application, ended=ended)
    if as_json:
        say_json([summary_facts(item) for item in items])
    else:
        show_summaries(items)


@manifest_group.command()
@click.argument("target")
@click.option("--output", "-o", default="", help="Also write the signed envelope to this file.")
@_json
@command_errors
def show(target: str, output: str, as_json: bool) -> None:
    """One manifest: a file, or one of the broker's (application[@version], digest)."""
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


@manifest_group.command()
@click.argument("target")
@_reason
@_ticket
@_yes
@_json
@command_errors
def retire(target: str, reason: str, ticket: str, yes: bool, as_json: bool) -> None:
    """No new starts under a manifest; what runs goes on."""
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


@manifest_group.command()
@click.argument("target")
@_reason
@_ticket
@_yes
@_json
@command_errors
def withdraw(target: str, reason: str, ticket: str, yes: bool, as_json: bool) -> None:
    """Revoke everything that runs under a manifest, for good: its version never comes back."""
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


def _required_key(key: str | None) -> str:
    if not key:
        raise ManifestError(f"a private key is needed: --key FILE, or set {_KEY_VARIABLE}")
    return key
