"""``lockstep manifest``: say which code may run, sign it, and keep it in step with what is deployed."""

from __future__ import annotations

import click

from lockstep_client.cli import manifest_kept, manifest_local


@click.group(name="manifest")
def manifest_group() -> None:
    """Which code an application may run: build, sign, publish, compare."""


for _command in (
    manifest_local.build,
    manifest_local.sign,
    manifest_local.verify,
    manifest_local.index,
    manifest_kept.publish,
    manifest_kept.approve,
    manifest_kept.diff,
    manifest_kept.list_manifests,
    manifest_kept.show,
    manifest_kept.retire,
    manifest_kept.withdraw,
):
    manifest_group.add_command(_command)
