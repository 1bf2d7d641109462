"""What `lockstep-broker vault` does and prints: check a server, or set it up."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import click

from broker.adapters.backends.vault import VaultOptions
from broker.adapters.backends.vault_setup import (
    Act,
    Facts,
    Finding,
    Level,
    Pending,
    State,
    Unseen,
    Wanted,
    apply,
    compare,
    engines,
    judge,
    look,
    node_settings,
    opened,
    plan,
    variables,
    worst,
)
from broker.adapters.clock import SystemClock
from broker.crypto.keyfiles import KeyFileError
from broker.errors import Unavailable
from broker.model.account import TargetFault
from broker.ports import TargetCutter

Vault = tuple[Wanted, VaultOptions]

_COLOURS: Final = {Level.TOO_WIDE: "red", Level.MISSING: "yellow", Level.UNSEEN: "blue", Level.GOOD: "green"}
_PRODUCTS: Final = {"openbao": "OpenBao", "vault": "Vault"}


def check(
    vaults: Sequence[Vault],
    token: str,
    gated: Sequence[str],
    cutters: Mapping[str, Callable[[], TargetCutter]],
    *,
    as_json: bool,
) -> Level:
    """Look, judge and print; how bad the worst of it is. `cutters` makes those of the configuration, by name.
    Raises `Unavailable`."""
    looked = [(*vault, *asyncio.run(_looked(*vault, token, gated, cutters))) for vault in vaults]
    found = worst([finding for *_, findings in looked for finding in findings])
    if as_json:
        click.echo(json.dumps({"ok": found is Level.GOOD, "backends": _report(looked)}))
    else:
        for wanted, options, facts, findings in looked:
            click.echo("\n".join(_page(wanted, options, facts, findings)))
    return found


def dry_run(vaults: Sequence[Vault], tool: str, *, as_json: bool) -> None:
    """Print every command, as a shell script; asks no server."""
    if as_json:
        report = [
            {
                "backend": wanted.backend,
                "environment": _environment(tool, wanted, options),
                "variables": variables((*plan(wanted), *engines(wanted))),
                "acts": [{"what": act.what, "command": act.command(tool)} for act in plan(wanted)],
                "engines": [{"what": act.what, "command": act.command(tool)} for act in engines(wanted)],
            }
            for wanted, options in vaults
        ]
        click.echo(json.dumps({"backends": report}))
        return
    click.echo("\n".join(_script(vaults, tool)))


def set_up(vaults: Sequence[Vault], token: str, *, yes: bool, as_json: bool) -> None:
    """Compare, print what would be done, ask, do it. Raises `Unavailable`; ``click.Abort`` where the answer is no."""
    for wanted, options in vaults:
        pending = asyncio.run(_compared(wanted, options, token))
        if not as_json:
            click.echo(f"{wanted.backend} · {options.addresses[0]}")
            click.echo("\n".join(_table(pending)))
        if any(item.open for item in pending):
            if not yes:
                click.confirm("do it?", abort=True, err=True)
            asyncio.run(_applied(options, token, pending))
        if as_json:
            report = [{"what": item.act.what, "found": item.state.value} for item in pending]
            click.echo(json.dumps({"backend": wanted.backend, "acts": report}))
        else:
            click.echo("\n".join(_next(wanted, options, pending)))


# --- at the server ----------------------------------------------------------------------------------


async def _looked(
    wanted: Wanted,
    options: VaultOptions,
    token: str,
    gated: Sequence[str],
    cutters: Mapping[str, Callable[[], TargetCutter]],
) -> tuple[Facts, tuple[Finding, ...]]:
    with opened(options, SystemClock(), token) as eyes:
        facts = await look(wanted, options.login, eyes, gated)
    names = {use.cutter for use in wanted.uses if use.cutter in cutters}
    targets = {name: await _asked(cutters[name]) for name in sorted(names)}
    facts = replace(facts, targets=targets)
    return facts, judge(wanted, facts)


async def _asked(make: Callable[[], TargetCutter]) -> tuple[TargetFault, ...] | Unseen:
    """What a cutter finds wrong, or why it could not look."""
    try:
        cutter = make()
    except (KeyFileError, ValueError) as problem:
        return Unseen(str(problem))
    try:
        return tuple(await cutter.faults())
    except Unavailable as problem:
        return Unseen(problem.message)
    finally:
        await cutter.close()


async def _compared(wanted: Wanted, options: VaultOptions, token: str) -> tuple[Pending, ...]:
    with opened(options, SystemClock(), token) as eyes:
        return await compare(plan(wanted), eyes)


async def _applied(options: VaultOptions, token: str, pending: Sequence[Pending]) -> None:
    with opened(options, SystemClock(), token) as eyes:
        await apply(pending, eyes)


# --- for people -------------------------------------------------------------------------------------


def _page(wanted: Wanted, options: VaultOptions, facts: Facts, findings: Sequence[Finding]) -> Iterator[str]:
    product = f"{_PRODUCTS[facts.product]} {facts.version}"
    yield click.style(f"{wanted.backend} · {options.addresses[0]} · {product}", bold=True)
    for finding in findings:
        word = click.style(f"{finding.level.value:<18}", fg=_COLOURS[finding.level])
        yield f"{word} {finding.what}"
        if finding.why:
            yield f"{'':<18} {finding.why}"
    for level, title in (
        (frozenset({Level.TOO_WIDE, Level.MISSING}), "to mend it:"),
        (frozenset({Level.UNSEEN}), "where that is not so already:"),
    ):
        acts = _acts(finding for finding in findings if finding.level in level)
        if acts:
            yield from ("", title, "", *_exports(facts.tool, wanted, options))
            for act in acts:
                yield from ("", act.command(facts.tool))
    yield ""
    counts = [(level, sum(finding.level is level for finding in findings)) for level in Level]
    yield ", ".join(f"{count} {level.value}" for level, count in counts)


def _script(vaults: Sequence[Vault], tool: str) -> Iterator[str]:
    yield "set -eu"
    everything = [act for wanted, _ in vaults for act in (*plan(wanted), *engines(wanted))]
    if names := variables(everything):
        yield from ("", "# yours to say before anything is done: export NAME=value, for each")
        yield ": " + " ".join(f'"${{{name}:?}}"' for name in names)
    for wanted, options in vaults:
        yield from ("", f"# backend {wanted.backend}", *_exports(tool, wanted, options))
        for act in plan(wanted):
            yield from ("", f"# {act.what}", act.command(tool))
        yield from ("", "# engines: as a beginning; what is there already is yours (docs/vault.md, Engines)")
        for act in engines(wanted):
            yield from ("", f"# {act.what}", act.command(tool))
        yield from ("", "# in the file of every node, not by a command:")
        product = "openbao" if tool == "bao" else "vault"
        yield from (act.command(tool) for act in node_settings(wanted, product))


def _table(pending: Sequence[Pending]) -> Iterator[str]:
    for item in pending:
        colour = {State.ABSENT: "yellow", State.DIFFERENT: "red"}.get(item.state, "green")
        yield f"{click.style(f'{item.state.value:<16}', fg=colour)} {item.act.what}"


def _next(wanted: Wanted, options: VaultOptions, pending: Sequence[Pending]) -> Iterator[str]:
    by_hand = [item.act for item in pending if item.state is State.BY_HAND]
    if by_hand:
        yield from ("", "left for you:", "", *_exports("bao", wanted, options))
        yield from (act.command("bao") for act in by_hand)
    yield "then: lockstep-broker vault check, with the same token"


def _acts(findings: Iterable[Finding]) -> list[Act]:
    # What mends three things is printed once.
    acts: list[Act] = []
    for finding in findings:
        acts += [act for act in finding.mends if act not in acts]
    return acts


def _environment(tool: str, wanted: Wanted, options: VaultOptions) -> dict[str, str]:
    prefix = tool.upper()
    found = {f"{prefix}_ADDR": options.addresses[0]}
    if options.ca_file is not None:
        found[f"{prefix}_CACERT"] = str(options.ca_file)
    if wanted.namespace:
        found[f"{prefix}_NAMESPACE"] = wanted.namespace
    return found


def _exports(tool: str, wanted: Wanted, options: VaultOptions) -> Iterator[str]:
    for name, value in _environment(tool, wanted, options).items():
        yield f"export {name}={shlex.quote(value)}"


# --- for programs -----------------------------------------------------------------------------------


def _report(
    looked: Sequence[tuple[Wanted, VaultOptions, Facts, Sequence[Finding]]],
) -> list[dict[str, Any]]:
    return [
        {
            "backend": wanted.backend,
            "address": options.addresses[0],
            "product": facts.product,
            "version": facts.version,
            "environment": _environment(facts.tool, wanted, options),
            "findings": [
                {
                    "key": finding.key,
                    "level": finding.level.value,
                    "what": finding.what,
                    "why": finding.why,
                    "mend": [act.command(facts.tool) for act in finding.mends],
                }
                for finding in findings
            ],
        }
        for wanted, options, facts, findings in looked
    ]
