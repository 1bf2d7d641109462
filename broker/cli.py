"""``lockstep-broker``: serve, check a configuration, migrate the state, or run a broker for a laptop."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from broker.adapters.backends.vault import VaultOptions
    from broker.adapters.backends.vault_setup import Wanted
    from broker.dev import Laptop
    from broker.process import Log
    from broker.settings import Outline, Settings

# Commands import what they need themselves: --help must not wait for gRPC.

CRASHED: Final = 1
REFUSED: Final = 3
STATE: Final = 4
ADDRESS: Final = 5
FOUND: Final = 6
VAULT: Final = 7
UNSEEN: Final = 8

_LAPTOP: Final = Path("~/.lockstep/dev")
_MOMENT: Final = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"])
_LEVELS: Final = {"TOO_WIDE": FOUND, "MISSING": FOUND, "UNSEEN": UNSEEN, "GOOD": 0}
_CODES: Final = """
\b
Exit codes
  0  done; a broker that was told to end has ended in order
  1  the broker failed; the last line of the log says where
  2  the command line is wrong
  3  the configuration is refused; every problem is on a line of its own
  4  the state cannot be used: in use, newer, older than the audit log, or unreadable
  5  an address cannot be bound
  6  vault check: something is missing or too wide
  7  Vault or OpenBao does not answer, or refuses what was asked
  8  vault check: nothing is missing or too wide, but something could not be seen
"""


@click.group(
    epilog=_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
def main() -> None:
    """A secrets broker that leases credentials to code it has measured, and takes them back.

    First time? Run `lockstep-broker dev`, then `lockstep run` in another terminal.
    """


_config = click.option(
    "--config",
    "-c",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The TOML file; deploy/lockstep.example.toml shows every key.",
)


@main.command(epilog=_CODES)
@_config
def serve(file: Path) -> None:
    """Serve until SIGTERM.

    \b
      lockstep-broker serve --config /etc/lockstep/lockstep.toml

    SIGTERM drains: health says NOT_SERVING, callers are told to go elsewhere,
    what runs may end. A second one ends at once. SIGHUP reloads roles, keys,
    certificates and detectors; a configuration with faults changes nothing.

    The environment overrides the file: LOCKSTEP_LISTEN__TLS sets listen.tls.
    """
    with _verdicts():
        from broker import bootstrap, process
        from broker.supervision import Supervisor

        log = _log()
        process.harden(log)
        settings = _load(file)
        process.run(
            lambda: bootstrap.build(settings, lambda: _load(file), log),
            log,
            on_ready=lambda _: None,
            supervisor=Supervisor.of(os.environ, os.getpid()),
        )


@main.command("check-config")
@_config
@click.option("--json", "as_json", is_flag=True, help="Problems as JSON on stdout.")
def check_config(file: Path, as_json: bool) -> None:
    """Say everything that is wrong with a configuration, and what to do.

    \b
      lockstep-broker check-config --config /etc/lockstep/lockstep.toml

    Reads what `serve` would read, key files included; opens no port, writes nothing.
    """
    from broker.settings import ConfigurationRefused

    try:
        settings = _load(file)
    except ConfigurationRefused as error:
        if as_json:
            problems = [
                {"source": problem.source, "key": problem.key, "message": problem.message}
                for problem in error.problems
            ]
            click.echo(json.dumps({"ok": False, "problems": problems}))
        else:
            for problem in error.problems:
                click.echo(str(problem), err=True)
        sys.exit(REFUSED)
    book = settings.book
    counts = {
        "roles": len(book.roles),
        "applications": len(book.applications),
        "detectors": len(book.detectors),
        "operators": len(book.operators),
        "resource_servers": len(book.resource_servers),
    }
    if as_json:
        click.echo(json.dumps({"ok": True, "problems": [], **counts}))
    else:
        click.echo(
            "in order: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
        )


@main.command()
@_config
@click.option("--check", is_flag=True, help="Only say whether there is something to do: exit code 4 if so.")
def migrate(file: Path, check: bool) -> None:
    """Bring the state's schema up to this version; `serve` does the same at start.

    \b
      lockstep-broker migrate --config /etc/lockstep/lockstep.toml --check

    The state must not be in use. Nothing is lost: make a copy of the file all the same.
    """
    with _verdicts():
        from broker import bootstrap

        settings = _load(file)
        before, newest = bootstrap.schema(settings)
        if before == newest:
            click.echo(f"nothing to do: schema {before}")
        elif check:
            click.echo(f"schema {before}, this version has {newest}: run lockstep-broker migrate", err=True)
            sys.exit(STATE)
        else:
            bootstrap.migrate(settings)
            click.echo(f"schema {before} → {newest}")


@main.group()
def state() -> None:
    """The state of a broker that is not running."""


@state.command("restored", epilog=_CODES)
@_config
@click.option("--reason", required=True, help="Why; kept in the record.")
@click.option("--ticket", default="", help="Where it is discussed.")
@click.option(
    "--by", default=lambda: _login(), show_default="your login", help="Who says so; kept in the record."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="What was done as JSON on stdout.")
def state_restored(file: Path, reason: str, ticket: str, by: str, yes: bool, as_json: bool) -> None:
    """Say that the state was restored from a copy: run it before the first start.

    \b
      lockstep-broker state restored --config lockstep.toml --reason "the disk was lost"

    The copy lacks what was granted and revoked after it was made. The log begins
    anew, so that every watcher does; everything that was granted is revoked, also
    what the copy does not know of; and what the audit log has since is shown,
    since bans that are not in the copy have to be said again.
    """
    with _verdicts():
        import asyncio

        from broker import bootstrap, state_console
        from broker.errors import InvalidRequest

        settings = _load(file)
        if not yes:
            click.confirm(
                "everything that was granted will be revoked, and bans since the copy are lost until they are "
                "said again; go on?",
                abort=True,
                err=True,
            )
        try:
            account = asyncio.run(bootstrap.restored(settings, f"console:{by}", reason, ticket))
        except InvalidRequest as error:
            raise click.UsageError(error.message) from error
        state_console.show_restored(account, as_json=as_json)


@main.group()
def audit() -> None:
    """The audit log of this host's broker, which may run."""


@audit.command("export", epilog=_CODES)
@_config
@click.option("--since", type=_MOMENT, help="From this moment on, UTC.")
@click.option("--until", type=_MOMENT, help="Before this moment, UTC.")
@click.option("--ticket", default="", help="Of this ticket alone.")
def audit_export(file: Path, since: datetime | None, until: datetime | None, ticket: str) -> None:
    """Write an excerpt of the audit log to stdout, which `lockstep audit verify` can check by itself.

    It has every line from the first that was asked for to the first signed
    checkpoint after the last one. Lines that were not asked for lose their
    content, and keep their digest and their place in the chain.

    \b
      lockstep-broker audit export -c lockstep.toml --ticket INC-311 > incident.jsonl
      lockstep audit verify incident.jsonl --jwks jwks.json
    """
    with _verdicts():
        from broker import bootstrap

        settings = _load(file)
        out = sys.stdout.buffer
        count = 0
        try:
            for line in bootstrap.audit_excerpt(settings, _seconds(since), _seconds(until), ticket):
                out.write(line)
                count += 1
        except OSError as error:
            click.echo(f"the audit log cannot be exported ({error.strerror})", err=True)
            sys.exit(CRASHED)
        if not count:
            click.echo("nothing of that is in the audit log", err=True)


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


@main.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=_LAPTOP,
    show_default=True,
    help="Where everything is kept; remove it to begin anew.",
)
@click.option(
    "--export", is_flag=True, help='Print shell lines and end: eval "$(lockstep-broker dev --export)"'
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when ready, and nothing else.")
@click.option("--enforce", is_flag=True, help="The role `dev` enforces; without, it observes.")
@click.option(
    "--port",
    type=click.IntRange(1, 65_533),
    default=None,
    help="First of three ports (TLS, mTLS, HTTPS); without, those of the last start, or free ones.",
)
@click.option(
    "--with",
    "includes",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    multiple=True,
    help="A file with more roles, detectors, signers …; may be given again.",
)
def dev(
    folder: Path, export: bool, as_json: bool, enforce: bool, port: int | None, includes: tuple[Path, ...]
) -> None:
    """A broker for this laptop: throw-away keys, an identity issuer, one role `dev`.

    Everything is made under one private folder and kept between starts, so that
    clients reconnect. Listens on 127.0.0.1 only.

    \b
      lockstep-broker dev &
      eval "$(lockstep-broker dev --export)"
      lockstep run --role dev -- python -m http.server
    """
    with _verdicts():
        from broker import bootstrap, process
        from broker.adapters.clock import SystemClock
        from broker.dev import make
        from broker.settings import load

        laptop = make(folder, SystemClock(), enforce=enforce, port=port or 0, includes=includes, keep=export)
        if export:
            click.echo("\n".join(_exports(laptop)))
            return
        log = _log()

        def again() -> Settings:
            # Not the environment: the SDK's variables are exported here, and nothing may widen the listeners.
            return load(laptop.configuration, {})

        settings = again()
        process.run(
            lambda: bootstrap.build(settings, again, log),
            log,
            on_ready=lambda _: _announce(laptop, as_json=as_json, enforce=enforce),
            beside=laptop.tokens.keep_fresh,
        )


@main.group(epilog=_CODES)
def vault() -> None:
    """Set up a Vault or OpenBao for a configuration, and see whether it is as it should be."""


_vault_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="CONFIG")
_vault_backend = click.option("--backend", help="Only this one of the configuration's.")
_vault_token = click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="An operator's token; without, BAO_TOKEN or VAULT_TOKEN.",
)
_vault_login = click.option(
    "--login-role", default="lockstep", show_default=True, help="The name of the broker's AppRole."
)


@vault.command("check", epilog=_CODES)
@_vault_file
@_vault_backend
@_vault_token
@_vault_login
@click.option("--gated", multiple=True, help="A policy that attestation tokens lead to; may be given again.")
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON on stdout.")
def vault_check(
    file: Path,
    backend: str | None,
    token_file: Path | None,
    login_role: str,
    gated: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say what is missing or too wide at the server, and print the command that mends it.

    \b
      lockstep-broker vault check /etc/lockstep/lockstep.toml

    Logs in as the broker would, and asks cutters about their targets. With an operator's token it also reads policies
    and roles; for each policy it then makes two tokens of a minute, to ask the
    server what they may, and revokes them. It changes nothing. Without one, much
    cannot be seen: that is no success, and has an exit code of its own.
    """
    with _verdicts(), _vault_verdicts():
        from broker import vault_console
        from broker.bootstrap.vault import cutters
        from broker.settings import outline

        token = _operator_token(token_file)
        # The files of a login that is still to be made are not there yet.
        said = outline(file, os.environ)
        vaults, made = _vaults(said, backend, login_role), cutters(said)
        found = vault_console.check(vaults, token, gated, made, as_json=as_json)
        sys.exit(_LEVELS[found.name])


@vault.command("setup", epilog=_CODES)
@_vault_file
@_vault_backend
@_vault_token
@_vault_login
@click.option("--dry-run", is_flag=True, help="Print every command as a shell script; ask no server.")
@click.option(
    "--tool", type=click.Choice(["bao", "vault"]), default="bao", help="With --dry-run: whose commands."
)
@click.option("--yes", is_flag=True, help="Do not ask before doing it.")
@click.option("--json", "as_json", is_flag=True, help="What was found and done as JSON on stdout.")
def vault_setup(
    file: Path,
    backend: str | None,
    token_file: Path | None,
    login_role: str,
    dry_run: bool,
    tool: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Make policies, token role and login at the server, with an operator's token.

    \b
      lockstep-broker vault setup /etc/lockstep/lockstep.toml --dry-run

    What is as it should be is left alone, so that it may be run again. Engines
    and their roles stay yours: docs/vault.md.
    """
    with _verdicts(), _vault_verdicts():
        from broker import vault_console
        from broker.settings import outline

        vaults = _vaults(outline(file, os.environ), backend, login_role)
        if dry_run:
            vault_console.dry_run(vaults, tool, as_json=as_json)
            return
        token = _operator_token(token_file)
        if not token:
            raise click.UsageError("no operator's token: give --token-file, BAO_TOKEN or VAULT_TOKEN")
        if as_json and not yes:
            raise click.UsageError("--json does not ask: add --yes")
        vault_console.set_up(vaults, token, yes=yes, as_json=as_json)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete this command.

    \b
      lockstep-broker completion bash >~/.local/share/bash-completion/completions/lockstep-broker
      lockstep-broker completion zsh >~/.zfunc/_lockstep-broker     # a folder of $fpath, before compinit
      lockstep-broker completion fish >~/.config/fish/completions/lockstep-broker.fish

    Or for one shell alone: eval "$(lockstep-broker completion bash)". Bash 4.4 or newer.
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 - click has all three
    root = context.find_root().command
    click.echo(made(root, {}, "lockstep-broker", "_LOCKSTEP_BROKER_COMPLETE").source())


@main.command()
def version() -> None:
    """Print the version.

    \b
      lockstep-broker version
    """
    click.echo(f"lockstep-broker {distribution_version('lockstep-broker')}")


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a number may have no name
        return f"uid-{os.getuid()}"


def _load(file: Path) -> Settings:
    from broker.settings import load

    return load(file, os.environ)


def _vaults(
    outline: Outline, backend: str | None, login_role: str
) -> tuple[tuple[Wanted, VaultOptions], ...]:
    from broker.bootstrap.vault import vaults

    found = vaults(outline, login_role)
    chosen = tuple(item for item in found if backend in (None, item[0].backend))
    if not chosen:
        names = ", ".join(item[0].backend for item in found) or "none"
        raise click.UsageError(f"the configuration has no such backend of kind vault (it has: {names})")
    return chosen


def _operator_token(file: Path | None) -> str:
    from broker.crypto.keyfiles import read_secret

    if file is not None:
        return read_secret(file).decode("ascii", "replace").strip()
    return os.environ.get("BAO_TOKEN") or os.environ.get("VAULT_TOKEN") or ""


@contextmanager
def _vault_verdicts() -> Iterator[None]:
    from broker.errors import Unavailable

    try:
        yield
    except Unavailable as error:
        click.echo(error.message, err=True)
        sys.exit(VAULT)


def _exports(laptop: Laptop) -> Iterator[str]:
    import shlex

    yield "# LAPTOPS ONLY: keys in this folder protect nothing."
    for name, value in laptop.environment().items():
        yield f"export {name}={shlex.quote(value)}"


def _announce(laptop: Laptop, *, as_json: bool, enforce: bool) -> None:
    if as_json:
        click.echo(json.dumps(laptop.report()))
        sys.stdout.flush()
        return
    import shlex

    from rich.console import Console

    mode = "role dev enforces" if enforce else "role dev observes"
    console = Console(stderr=True, highlight=False)
    console.print(f"ready · [bold red]LAPTOPS ONLY[/] · {laptop.folder} · {mode}", soft_wrap=True)
    where = ""
    if laptop.folder != _LAPTOP.expanduser():
        where = f" --folder {shlex.quote(str(laptop.folder))}"
    console.print(
        f'in another terminal: eval "$(lockstep-broker dev --export{where})"', soft_wrap=True, markup=False
    )


@contextmanager
def _verdicts() -> Iterator[None]:
    """Errors that an operator can mend end in one line each and an exit code; others are failures."""
    from broker.api.listening import ListenError
    from broker.api.tls import CertificateError
    from broker.crypto.keyfiles import KeyFileError
    from broker.dev import FolderRefused
    from broker.errors import Conflict, Unavailable
    from broker.process import Crashed
    from broker.settings import ConfigurationRefused

    try:
        yield
    except ConfigurationRefused as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        sys.exit(REFUSED)
    except (CertificateError, KeyFileError, FolderRefused) as error:
        click.echo(str(error), err=True)
        sys.exit(REFUSED)
    except (Conflict, Unavailable) as error:
        click.echo(f"state: {error.message}", err=True)
        sys.exit(STATE)
    except ListenError as error:
        click.echo(str(error), err=True)
        sys.exit(ADDRESS)
    except Crashed:
        sys.exit(CRASHED)


def _log() -> Log:
    """Lines for people on a terminal, JSON for everything else; to stderr, which stdout never mixes with."""
    import structlog

    people = sys.stderr.isatty()
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if people else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    log: Log = structlog.get_logger()
    return log
