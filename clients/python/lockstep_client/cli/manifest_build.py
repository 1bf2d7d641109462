"""``lockstep manifest build``: apart from the other commands, for what those import it would have to wait for."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import click

from lockstep_client.cli.failures import command_errors
from lockstep_client.cli.manifest_files import compile_sources, read_manifest_file, validity, write_bytes
from lockstep_client.cli.manifest_options import days_option, json_option
from lockstep_client.cli.manifest_views import manifest_facts, progress, say_json, show_remarks, summary_line
from lockstep_client.manifest import Builder, CodeManifest, ManifestError, check_names


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
    """Build a manifest from what is here. The same input gives the same bytes.

    \b
      lockstep manifest build --application pay --version 3 --environment .venv --app src --output pay.json
    """
    # Before anything is read: what no broker takes is not worth the wait.
    check_names(application, version, include)
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
