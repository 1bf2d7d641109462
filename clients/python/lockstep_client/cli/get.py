"""Commands for scripts: get a credential once, wait for a broker."""

from __future__ import annotations

import datetime as dt
import os
import sys
import time

import click

from lockstep_client import messages, methods
from lockstep_client.callers import Anonymous
from lockstep_client.cli.formats import FORMATS, require_exec_version
from lockstep_client.cli.spans import Span
from lockstep_client.client import persist
from lockstep_client.clock import SystemClock
from lockstep_client.errors import Denied, Unavailable
from lockstep_client.holding import Attestation
from lockstep_client.identity import channel_credentials
from lockstep_client.once import Once, checked_once, credential_once
from lockstep_client.settings import Settings, load, require
from lockstep_client.transport import Transport
from lockstep_client.words import plain


@click.command(epilog="Exit codes: 75 unavailable · 77 revoked · 78 denied.")
@click.argument("role", metavar="ROLE")
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    default="json",
    show_default=True,
    help="How it is printed: everything as JSON; `export` lines for a shell; an ExecCredential for kubectl; what "
    "`credential_process` of an AWS profile reads.",
)
@click.option("--show", is_flag=True, help="Print it to a terminal too, where it stays to be read.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to try while unavailable.",
)
def get(role: str, form: str, show: bool, wait: float) -> None:
    """Print a credential once, for a job that is over before it expires.

    \b
      login="$(lockstep get payments-db --format env)" && eval "$login"
      lockstep get orders | jq -r '"Authorization: Bearer \\(.token)"' | curl -H @- https://orders.example/
      credential_process = lockstep get backups --format aws

    NOBODY RENEWS IT, and nothing tells the job when it is taken back: it ends
    when it expires, minutes later, or at once when it is revoked. What is
    measured is this command and not the job, so its manifest says who may ask,
    not what the job runs. `lockstep run` does better on each of these.

    Standard output has the credential and nothing else. The lease is said on
    standard error: `lockstep revoke --lease L-…` takes it back before its time.
    Where it cannot be printed, it is given back.
    """
    if sys.stdout is None:
        raise click.UsageError("there is no standard output to print to")
    if sys.stdout.isatty() and not show:
        raise click.UsageError(
            "this would print a secret to a terminal: send it to a program or a file, or add --show"
        )
    settings = load()
    if form == "kubectl":
        require_exec_version(os.environ.get("KUBERNETES_EXEC_INFO", ""))
    with credential_once(settings, role, wait=wait) as once:
        _print(FORMATS[form](once.held))
    _say_given(once)


def _print(text: str) -> None:
    """UTF-8 whatever the locale, and through to whoever reads. Raises `BrokenPipeError` where nobody does."""
    out = sys.stdout.buffer
    try:
        out.write(f"{text}\n".encode())
        out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise click.FileError("standard output", error.strerror) from None


def _say_given(once: Once) -> None:
    held = once.held
    standing = once.attestation.roles.get(held.role)
    _say(
        f"{held.role} until {held.expires_at:%H:%M:%S}Z, not renewed; "
        f"lockstep revoke --lease {held.lease_id} --reason … takes it back"
    )
    if standing is not None and standing.findings:
        _say(f"{held.role} observes, so the credential was given. Decision {standing.decision}")
        _say(f"  next: lockstep manifest approve --from {standing.decision}")


@click.command(name="wait", epilog="Exit codes: 0 it answers, and would grant · 75 not in time · 78 denied.")
@click.option(
    "--role", default="", metavar="ROLE", help="Wait until the role would be granted to this command, too."
)
@click.option(
    "--timeout",
    type=Span(),
    default="30s",
    show_default=True,
    metavar="TIME",
    help="How long to try, such as 30s or 5m.",
)
def wait_for_broker(role: str, timeout: dt.timedelta) -> None:
    """Wait until the broker answers; for init containers and scripts.

    \b
      lockstep wait --timeout 2m
      lockstep wait --role payments-db --timeout 2m

    With --role it also asks, once somebody answers, what would be decided about
    this command's own code: run it from the image of the workload. That grants
    nothing. A denial ends it at once: the same question has the same answer.
    """
    settings = load()
    deadline = time.monotonic() + timeout.total_seconds()
    address = _answering(settings, timeout.total_seconds())
    if role:
        left = max(0.0, deadline - time.monotonic())
        _require_granted(checked_once(settings, role, wait=left), role)
    _say(f"{address} answers{f', and would grant {role}' if role else ''}")


def _answering(settings: Settings, within: float) -> str:
    require(settings, "address", "where the broker is")
    transport = Transport(settings.addresses, lambda: channel_credentials(settings), SystemClock())
    key = messages.InstanceKey.generate()
    try:
        # Also while it starts: nobody listens yet, or it says that it is not ready.
        persist(lambda: transport.unary(methods.GET_CHALLENGE, messages.challenge(key), Anonymous()), within)
        return transport.address
    except Unavailable as error:
        raise Unavailable(f"not within {within:g} s: {error.message}", reason=error.reason) from None
    finally:
        transport.close()


def _require_granted(attestation: Attestation, role: str) -> None:
    standing = attestation.roles.get(role)
    if standing is not None and standing.granted:
        return
    decision = (standing.decision if standing is not None else "") or attestation.decision
    raise Denied(
        f"{role} would not be granted",
        reason=standing.reason if standing is not None else attestation.status,
        decision=decision,
        count=standing.findings if standing is not None else 0,
    )


def _say(text: str) -> None:
    click.echo(f"lockstep: {plain(text)}", err=True)
