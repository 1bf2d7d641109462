"""What a token may, as the server says it, and whether that is more or less than rules want."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

from broker.adapters.backends.vault_setup.rules import Rule

NOBODY: Final = "00000000-0000-4000-8000-000000000000"
"""Stands for the star where a prefix must be asked about."""


@dataclass(frozen=True, slots=True)
class Right:
    """One path of a token's rights; `path` ends in ``*`` for a prefix. An empty mapping limits nothing."""

    path: str
    capabilities: frozenset[str]
    allowed: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    needed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class View:
    """A token's rights: listed by the server, and asked for one by one.

    The list has everything but paths with ``+`` in the middle (OpenBao 2.7
    leaves those out), so `asked` has, by path, what the server answered about
    paths that matter; for one with stars, about a `sample` of it.
    """

    rights: tuple[Right, ...] = ()
    asked: Mapping[str, frozenset[str]] = field(default_factory=dict)
    root: bool = False


def read_rights(answer: Mapping[str, Any], namespace: str = "") -> tuple[Right, ...]:
    """From ``sys/internal/ui/resultant-acl``, whose paths carry the namespace; ours lose it."""
    own = f"{namespace.strip('/')}/" if namespace.strip("/") else ""
    rights = []
    for key, star in (("exact_paths", ""), ("glob_paths", "*")):
        for path, entry in (answer.get(key) or {}).items():
            rights.append(
                Right(
                    path.removeprefix(own) + star,
                    normal(entry.get("capabilities", ())),
                    entry.get("allowed_parameters") or {},
                    frozenset(entry.get("required_parameters") or ()),
                )
            )
    return tuple(rights)


def normal(capabilities: Iterable[str]) -> frozenset[str]:
    # For the paths that matter here, whether a POST is called create or update depends on the endpoint alone.
    return frozenset("update" if item == "create" else item for item in capabilities)


def beyond(view: View, rules: Sequence[Rule]) -> Iterator[str]:
    """Every right that no rule wants, in words."""
    if view.root:
        yield "everything: it has the policy root"
        return
    for right in view.rights:
        if "deny" in right.capabilities or not right.capabilities:
            continue
        near = [rule for rule in rules if _within(right.path, rule.path)]
        if not near:
            yield f"{_words(right.capabilities)} on {right.path}"
            continue
        # The rules' own prefixes do not overlap, but where they do, one that covers it suffices.
        faults = min(([*_excess(right, rule)] for rule in near), key=len)
        yield from faults
    for path, capabilities in view.asked.items():
        wanted = frozenset[str]().union(
            *(rule.capabilities for rule in rules if _within(path, rule.path)), {"deny"}
        )
        listed = any(_within(path, right.path) for right in view.rights)
        more = normal(capabilities) - wanted
        if more and not listed:
            yield f"{_words(more)} on {path}"


def _excess(right: Right, rule: Rule) -> Iterator[str]:
    more = right.capabilities - rule.capabilities
    if more:
        yield f"{_words(more)} on {right.path}"
    if rule.allowed is None or not right.capabilities & {"update"}:
        return
    if not right.allowed:
        names = ", ".join(rule.allowed)
        yield f"update on {right.path} with any parameter (only {names} is wanted)"
        return
    for name, values in right.allowed.items():
        if name not in rule.allowed:
            yield f"update on {right.path} with the parameter {name}"
            continue
        limits = rule.allowed[name]
        if limits and (not values or not all(_any_covers(limits, value) for value in values)):
            yield f"update on {right.path} with other values of {name} than {_words(map(_text, limits))}"
    for name in rule.needed:
        if name not in right.needed:
            yield f"update on {right.path} without {name}"


def lacking(view: View, rules: Sequence[Rule]) -> Iterator[str]:
    """Every right that a rule wants and the token has not, in words."""
    if view.root:
        return
    for rule in rules:
        if rule.optional:
            continue
        right = _effective(view.rights, sample(rule.path))
        capabilities = view.asked.get(rule.path, right.capabilities if right else frozenset())
        less = rule.capabilities - normal(capabilities)
        if less or "deny" in capabilities:
            yield f"{_words(less or rule.capabilities)} on {rule.path}"
        elif right and right.allowed and rule.allowed:
            for name, values in rule.allowed.items():
                given = right.allowed.get(name, right.allowed.get("*"))
                if given is None:
                    yield f"the parameter {name} on {rule.path}"
                elif given and not all(_any_covers(given, value) for value in values):
                    yield f"other values of {name} on {rule.path} than {_words(map(_text, given))}"


def sample(path: str) -> str:
    """One path of those that a path with ``*`` at its end, or ``+`` in it, means."""
    whole = path.removesuffix("*") + NOBODY if path.endswith("*") else path
    return "/".join(NOBODY if part == "+" else part for part in whole.split("/"))


def _effective(rights: Sequence[Right], path: str) -> Right | None:
    """The one that decides: an exact path before prefixes, the longest prefix before others."""
    exact = [right for right in rights if right.path == path]
    prefixes = [right for right in rights if right.path.endswith("*") and path.startswith(right.path[:-1])]
    return exact[0] if exact else max(prefixes, key=lambda right: len(right.path), default=None)


def _within(path: str, other: str) -> bool:
    """Whether everything that `path` means lies in what `other` means."""
    if other.endswith("*"):
        return path.removesuffix("*").startswith(other[:-1])
    return path == other


def _any_covers(limits: Iterable[Any], value: Any) -> bool:
    return any(_covers(limit, value) for limit in limits)


def _covers(limit: Any, value: Any) -> bool:
    if isinstance(limit, str) and isinstance(value, str):
        return fnmatchcase(value, limit.replace("[", "[[]")) if "*" in limit else limit == value
    return type(limit) is type(value) and bool(limit == value)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(items: Iterable[str]) -> str:
    return ", ".join(sorted(items))
