"""What the well-known issuers say in their tokens: names of claims, and what tells one instance from another."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from broker.model.identity import InstanceClaims

MAX_CLAIM: Final = 1024
"""Characters; longer values are left out."""


class Preset(enum.StrEnum):
    """An issuer whose tokens are known."""

    OIDC = "oidc"
    KUBERNETES = "kubernetes"
    GITHUB = "github"
    GITLAB = "gitlab"
    SPIRE = "spire"


KNOWN_CLAIMS: Final[Mapping[Preset, tuple[str, ...]]] = MappingProxyType(
    {
        Preset.OIDC: (),
        # Projected service account tokens (Kubernetes: Managing Service Accounts, bound tokens).
        Preset.KUBERNETES: (
            "kubernetes.io/namespace",
            "kubernetes.io/serviceaccount/name",
            "kubernetes.io/serviceaccount/uid",
            "kubernetes.io/pod/name",
            "kubernetes.io/pod/uid",
            "kubernetes.io/node/name",
            "kubernetes.io/node/uid",
        ),
        # GitHub Actions: OpenID Connect reference. Names can be given up and taken by others: match ids as well.
        Preset.GITHUB: (
            "repository",
            "repository_id",
            "repository_owner",
            "repository_owner_id",
            "repository_visibility",
            "ref",
            "ref_type",
            "ref_protected",
            "environment",
            "event_name",
            "workflow_ref",
            "job_workflow_ref",
            "runner_environment",
        ),
        # GitLab CI/CD: ID token payload.
        Preset.GITLAB: (
            "project_path",
            "project_id",
            "namespace_path",
            "namespace_id",
            "ref",
            "ref_type",
            "ref_protected",
            "environment",
            "environment_protected",
            "pipeline_source",
            "ci_config_ref_uri",
            "runner_environment",
        ),
        Preset.SPIRE: (),
    }
)


def select_claims(claims: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Named claims as text; below an object, names are joined by ``/`` (``kubernetes.io/pod/uid``).

    Texts, integers and truth values count, lists do not: whether one of several
    values matches is not for us to choose. A name that can be read in two ways
    is left out, or an issuer's freely named claim could pass for a nested one.
    """
    found: dict[str, str] = {}
    for name in names:
        values = _resolve(claims, name)
        if len(values) == 1 and (text := _text(values[0])) is not None:
            found[name] = text
    return found


def instance_of(preset: Preset, claims: Mapping[str, Any]) -> InstanceClaims:
    """What the issuer says of the one instance that the token was given to; nothing but for Kubernetes."""
    if preset is not Preset.KUBERNETES:
        return InstanceClaims()
    said = select_claims(claims, ("kubernetes.io/pod/uid", "kubernetes.io/node/name"))
    return InstanceClaims(
        node=said.get("kubernetes.io/node/name", ""), pod_uid=said.get("kubernetes.io/pod/uid", "")
    )


def _resolve(value: Mapping[str, Any], name: str) -> list[Any]:
    found = [value[name]] if name in value else []
    for key, below in value.items():
        if isinstance(below, dict) and key and name.startswith(key + "/"):
            found += _resolve(below, name[len(key) + 1 :])
    return found


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) < 2**63:
        return str(value)
    if isinstance(value, str) and len(value) <= MAX_CLAIM:
        return value
    return None
