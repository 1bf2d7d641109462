"""Pages and files that code, configuration and printed lines send people to are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.adapters.backends.vault import AppRoleLogin, VaultOptions
from broker.adapters.backends.vault_setup import Wanted, engines, node_settings, plan

ROOT = Path(__file__).parents[2]
ROOMS = ("broker", "clients", "protos", "examples", "benchmarks", "deploy", "tools", "tests", "docs")
KINDS = {".py", ".sql", ".toml", ".md", ".hcl", ".json", ".proto", ".yaml", ""}
NAMED = re.compile(r"(?<![\w/.-])((?:docs|deploy)/[\w./*{}-]+)")
HEADED = re.compile(r"(docs/[\w-]+\.md), ([A-Z][\w ]*\w)")
BESIDE = re.compile(r"(?<![\w/.-])([\w-]+\.(?:md|sql|hcl|json))\b")


def sources() -> Iterator[Path]:
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*")):
            if file.is_file() and file.suffix in KINDS and "__pycache__" not in file.parts:
                yield file
    yield from (ROOT / name for name in ("Makefile", "pyproject.toml"))
    yield from sorted(ROOT.glob("*.md"))


def text_of(file: Path) -> str:
    try:
        return file.read_text()
    except UnicodeDecodeError:
        return ""


def missing(text: str) -> list[str]:
    """What a text names that is not there; a name with ``*`` or ``{`` in it stands for several."""
    found = []
    for name in NAMED.findall(text):
        path = name.rstrip(".")
        known = any(ROOT.glob(path)) if "*" in path else "{" in path or (ROOT / path).exists()
        if not known:
            found.append(path)
    for page, heading in HEADED.findall(text):
        file = ROOT / page
        if file.exists() and not re.search(rf"^#+ {re.escape(heading)}$", file.read_text(), re.M):
            found.append(f"{page}, {heading}")
    return found


def test_what_is_named_is_there() -> None:
    wrong = {
        str(file.relative_to(ROOT)): names
        for file in sources()
        if file != Path(__file__) and (names := missing(text_of(file)))
    }
    assert wrong == {}


def test_what_deployed_files_call_each_other_is_beside_them() -> None:
    for file in (ROOT / "deploy").rglob("*.sql"):
        for name in BESIDE.findall(file.read_text()):
            assert (file.parent / name).exists(), f"{file.name}: {name}"


ROLES = {
    "database": {"path": "database/creds/a", "cutter": "db"},
    "without a cutter": {"path": "database/creds/b"},
    "static": {"path": "database/static-creds/c"},
    "kv": {"path": "secret/data/d"},
    "gcp": {"path": "gcp/roleset/e/token"},
}


@pytest.mark.parametrize("role", ROLES)
def test_what_a_printed_line_names_is_there(role: str) -> None:
    options = VaultOptions(("https://vault.example",), AppRoleLogin(Path("r"), Path("s")))
    wanted = Wanted.of("vault", options, {role: ROLES[role]})
    acts = (*plan(wanted), *engines(wanted), *node_settings(wanted, "openbao"))
    text = "\n".join(act.command("bao") for act in acts)
    assert missing(text) == []
    if role == "database":
        assert "deploy/vault/postgres/creation.sql" in NAMED.findall(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see docs/nowhere.md", ["docs/nowhere.md"]),
        ("run deploy/vault/postgres/cutter.sql.", []),
        ("deploy/vault/postgres/nothing.sql", ["deploy/vault/postgres/nothing.sql"]),
        ("docs/vault.md, Engines", []),
        ("docs/vault.md, Nothing", ["docs/vault.md, Nothing"]),
        ("deploy/**/*.sql and docs/{name}.md", []),
        ("../docs/adr", []),
    ],
)
def test_what_counts_as_missing(text: str, found: list[str]) -> None:
    assert missing(text) == found
