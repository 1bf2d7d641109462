"""Manifest commands that need no broker: build, sign, verify."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import click

from lockstep_client.cli.failures import command_errors
from lockstep_client.cli.manifest_files import (
    compile_sources,
    read_bytes,
    read_manifest_file,
    validity,
    write_bytes,
)
from lockstep_client.cli.manifest_options import days_option, json_option, key_option, required_key
from lockstep_client.cli.manifest_views import manifest_facts, progress, say_json, show_remarks, summary_line
from lockstep_client.manifest import Builder, CodeManifest, ManifestError, read_payload, signing
from lockstep_client.manifest.index import INDEX_NAME, sign_index


@click.command()
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
@days_option
@click.option("--compile", "compiles", is_flag=True, help="Write missing bytecode first, as imports would.")
@click.option("--output", "-o", default="", help="File, or - for standard output.")
@json_option
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


@click.command()
@click.argument("file")
@key_option
@click.option(
    "--output", "-o", default="", help="Default: FILE with .dsse.json, or FILE itself if signed already."
)
@json_option
@command_errors
def sign(file: str, key: str | None, output: str, as_json: bool) -> None:
    """Sign a manifest, or add a signature to one that is signed already."""
    manifest, payload, signatures = read_manifest_file(file)
    private = signing.load_signer(required_key(key))
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


@click.command()
@click.argument("file")
@click.option(
    "--public", multiple=True, required=True, help="A signer's public key, PEM; several times for k of n."
)
@click.option(
    "--threshold", default=1, show_default=True, type=click.IntRange(1), help="How many must have signed."
)
@json_option
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


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@key_option
@days_option
@json_option
@command_errors
def index(folder: Path, key: str | None, valid_days: int, as_json: bool) -> None:
    """Sign a folder: the broker takes its *.dsse.json as the manifests in force.

    Run it again with another signer's key to add a signature, and again after
    the folder has changed, or before the index expires: its version only grows.
    """
    private = signing.load_signer(required_key(key))
    _, expires = validity(valid_days, None, None)
    envelope, version, added = sign_index(folder, private, expires)
    write_bytes(str(folder / INDEX_NAME), envelope)
    name = signing.key_id(private.public_key())
    if as_json:
        say_json({"path": str(folder / INDEX_NAME), "version": version, "keyid": name, "added": added})
    else:
        what = "one more signature" if added else "signed"
        click.echo(
            f"wrote {folder / INDEX_NAME}: version {version}, {what} by {name[:16]}, until {expires:%Y-%m-%d}"
        )
