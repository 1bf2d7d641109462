"""What the commands about a state print: lines for people, JSON for programs."""

from __future__ import annotations

import json

import click

from broker.bootstrap.restoring import Account


def show_restored(account: Account, *, as_json: bool) -> None:
    """What was taken back, and what somebody has to look at again."""
    done = account.restored
    if as_json:
        content = {
            "log": {"before": done.before.log_id, "position": done.before.seq, "after": done.head.log_id},
            "instances": done.instances,
            "leases": done.leases,
            "decision": done.decision.id,
            "forgotten": list(account.forgotten),
            "more": account.more,
        }
        click.echo(json.dumps(content, indent=2, sort_keys=True))
        return
    click.echo(f"log {done.before.log_id} at position {done.before.seq} goes on as {done.head.log_id}")
    click.echo(f"{done.instances} instances and {done.leases} leases revoked; decision {done.decision.id}")
    if not account.forgotten:
        click.echo("the audit log has nothing that was revoked since the copy")
        return
    count = f"{len(account.forgotten)}{' and more' if account.more else ''}"
    click.echo(
        f"{count} decisions of the audit log are not in this state; what they banned is not banned now:"
    )
    for decision in account.forgotten:
        words = " ".join(
            str(decision[name]) for name in ("id", "at", "effect", "actor", "detail") if decision.get(name)
        )
        # Some of it is what a workload said, and a terminal obeys what is not printable.
        click.echo("  " + "".join(letter if letter.isprintable() else "?" for letter in words))
    click.echo("  next: start the broker, then lockstep revoke what is to stay away")
