"""Manifest commands that need keys and no broker: sign, verify, index."""

from __future__ import annotations

from pathlib import Path

import click

from lockstep_client.cli.failures import command_errors
from lockstep_client.cli.manifest_files import read_bytes, read_manifest_file, validity, write_bytes
from lockstep_client.cli.manifest_options import days_option, json_option, key_option, required_key
from lockstep_client.cli.manifest_views import manifest_facts, say_json
from lockstep_client.manifest import read_payload, signing
from lockstep_client.manifest.index import INDEX_NAME, sign_index


@click.command()
@click.argument("file")
@key_option
@click.option(
    "--output", "-o", default="", help="Default: FILE with .dsse.json, or FILE itself if signed already."
)
@json_option
@command_errors
def sign(file: str, key: str | None, output: str, as_json: bool) -> None:
    """Sign a manifest, or add a signature to one that is signed already.

    \b
      lockstep manifest sign pay.json --key platform.pem
    """
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
    """Check signatures; the exit code says it.

    \b
      lockstep manifest verify pay.dsse.json --public platform.pub
    """
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

    \b
      lockstep manifest index manifests --key platform.pem

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
