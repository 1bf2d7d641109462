"""Every command's ``--help`` has an example, and every example is a command line that is taken as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lockstep_client.cli.main import COMMANDS, cli
from tests.support.commands import ALL, ROOTS

_LINE = re.compile(r"lockstep(?:-broker)?(?= [a-z]).*")


def examples(text: str) -> list[list[str]]:
    r"""Command lines of ours in the paragraphs that stand as they were written (``\b``)."""
    found = []
    for paragraph in re.findall(r"\x08\n(.*?)(?:\n\s*\n|\Z)", text, re.S):
        for line in _LINE.findall(paragraph):
            lexer = shlex.shlex(line.split("  ")[0], posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words: list[str] = []
            for word in lexer:
                if word[0] in "&|);>" or word == "#":
                    break
                words.append(word)
            found.append(words)
    return found


def parse(words: list[str]) -> None:
    """As it is called, and not called. Raises what click raises."""
    command, context = ROOTS[words[0]], click.Context(ROOTS[words[0]])
    rest = words[1:]
    while isinstance(command, click.Group):
        found = command.get_command(context, rest[0]) if rest else None
        if found is None and command.invoke_without_command:
            break
        assert found is not None, f"no command: {' '.join(words)}"
        command, rest = found, rest[1:]
    command.make_context(words[-1], list(rest))


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_command_teaches_by_an_example_of_itself(name: str, command: click.Command) -> None:
    shown = [words for words in examples(command.help or "") if " ".join(words).startswith(name)]
    assert shown, f"{name} --help shows no {name}"


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_example_is_taken_as_it_stands(
    name: str, command: click.Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "manifests").mkdir()
    for name in ("audit.jsonl", "incident.jsonl", "jwks.json"):
        (tmp_path / name).touch()
    for words in examples(command.help or ""):
        parse(words)


@pytest.mark.parametrize("name", ROOTS)
def test_what_the_first_page_shows_is_taken(name: str) -> None:
    for words in examples(ROOTS[name].help or ""):
        parse(words)


@pytest.mark.parametrize(
    "line", ["lockstep leases --nope", "lockstep leases --state no", "lockstep receipts", "lockstep nope"]
)
def test_an_example_that_is_not_true_is_found(line: str) -> None:
    [words] = examples(f"\b\n  {line} | jq .\n\nmore")
    with pytest.raises((click.UsageError, AssertionError)):
        parse(words)


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_option_says_what_it_is_for(name: str, command: click.Command) -> None:
    for item in command.params:
        if isinstance(item, click.Option):
            assert item.help, f"{name} {item.opts[0]}"


def test_the_table_of_commands_is_the_commands() -> None:
    said = CliRunner().invoke(cli, ["--help"]).output
    assert all(re.search(rf"^  {name} ", said, re.M) for name in COMMANDS)
