"""The broker's rights and those of the tokens that it makes: what is missing, and everything beyond."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from broker.adapters.backends.vault_setup import acts
from broker.adapters.backends.vault_setup.acl import View, beyond, lacking
from broker.adapters.backends.vault_setup.acts import Act
from broker.adapters.backends.vault_setup.facts import Facts, Own, Unseen
from broker.adapters.backends.vault_setup.finding import ADMIN, BATCH, ROOT, Finding, Level
from broker.adapters.backends.vault_setup.rules import Rule, broker_rules, credentials_rules
from broker.adapters.backends.vault_setup.wanted import Wanted

ENTITY: Final = "identity/entity/id/*"


def judge_policies(wanted: Wanted, facts: Facts) -> Iterator[Finding]:
    """Both policies, and what the broker's own token has beside its policy."""
    yield from _broker(wanted, facts)
    if wanted.uses:
        yield from _credentials(wanted, facts)


def _broker(wanted: Wanted, facts: Facts) -> Iterator[Finding]:
    key, name = "policy.broker", wanted.broker_policy
    mends = (acts.broker_policy(wanted),)
    policy = facts.policies.get(name, Unseen("no operator's token"))
    if policy is None:
        yield Finding(key, Level.MISSING, f"policy {name}", "the broker's login may do nothing", mends)
        return
    own = facts.own if isinstance(facts.own, Own) else None
    looks = [policy, own.view if own else facts.own]
    views = [look for look in looks if isinstance(look, View)]
    if not views:
        reasons = "; ".join(dict.fromkeys(look.why for look in looks if isinstance(look, Unseen)))
        yield Finding(key, Level.UNSEEN, f"policy {name} ({reasons})", ADMIN, mends)
        return
    refused = "the broker would be refused"
    found = [*_judged(key, f"policy {name}", views, broker_rules(wanted), mends, refused)]
    if own is not None and own.entity_free and not any(ENTITY in finding.what for finding in found):
        what = f"policy {name}: update on {ENTITY} with any parameter, as tried"
        found.append(Finding(f"{key}.more", Level.TOO_WIDE, what, ROOT, mends))
    yield from found or [Finding(key, Level.GOOD, f"policy {name} is what is needed, and no more")]
    if own is not None:
        yield from _own(wanted, own)


def _credentials(wanted: Wanted, facts: Facts) -> Iterator[Finding]:
    key, name = "policy.credentials", wanted.credentials_policy
    mends = (acts.credentials_policy(wanted),)
    match facts.policies.get(name, Unseen("no operator's token")):
        case None:
            yield Finding(key, Level.MISSING, f"policy {name}", "no token could take a credential", mends)
        case Unseen(why):
            yield Finding(key, Level.UNSEEN, f"policy {name} ({why})", ADMIN, mends)
        case View() as view:
            refused = "workloads would get no such credential"
            found = [*_judged(key, f"policy {name}", [view], credentials_rules(wanted), mends, refused)]
            yield from found or [Finding(key, Level.GOOD, f"policy {name} is what is needed, and no more")]


def _judged(
    key: str, what: str, views: Sequence[View], rules: Sequence[Rule], mends: tuple[Act, ...], refused: str
) -> Iterator[Finding]:
    # What two views show is one fault.
    for word in dict.fromkeys(word for view in views for word in beyond(view, rules)):
        why = ROOT if word.startswith(f"update on {ENTITY}") else "Lockstep does not need it"
        yield Finding(f"{key}.more", Level.TOO_WIDE, f"{what}: {word}", why, mends)
    for word in dict.fromkeys(word for view in views for word in lacking(view, rules)):
        yield Finding(f"{key}.less", Level.MISSING, f"{what}: {word}", refused, mends)


def _own(wanted: Wanted, own: Own) -> Iterator[Finding]:
    key, mends = "login.token", (acts.login_role_tokens(wanted),)
    if own.kind != "service":
        yield Finding(key, Level.TOO_WIDE, f"the login makes {own.kind} tokens", BATCH, mends)
    extra = own.policies - {wanted.broker_policy}
    if extra:
        what = f"the login has more policies: {', '.join(sorted(extra))}"
        yield Finding(key, Level.TOO_WIDE, what, f"{wanted.broker_policy} is enough", mends)
    if own.identity_policies:
        what = f"the broker's entity has policies: {', '.join(sorted(own.identity_policies))}"
        why = "they come on top of its login's; where the command changes nothing, a group gives them"
        mend = Act("entity", by_hand=f"{{tool}} write identity/entity/id/{own.entity_id} policies=")
        yield Finding(key, Level.TOO_WIDE, what, why, (mend,))
