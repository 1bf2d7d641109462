"""The pages' commands are run: in order, in one shell a page, in an empty home, against real brokers.

The convention, which `CONTRIBUTING.md` tells:

- ```` ```console ````: ``$`` begins a command, ``>`` goes on with it, the rest is what it prints, to the letter.
  ``…`` stands for anything in a line, and alone on a line for any lines; ``D-…`` in a command for the id that was
  printed last. A command that fails is followed by ``$ echo $?``. After ``… &``, ``kill`` and ``wait`` stands what
  the background says, as far as it matters.
- ```` ```sh ````: is run, and has to end well.
- ```` ```python app.py ````: a file of the page's folder.
- Whatever cannot be run has another word, and no ``$``.

A page that says ``<!-- run with a real OpenBao and a real PostgreSQL -->`` has both, and the names of its examples
stand for them; what `deploy/` has is below its folder, as in a checkout.
"""

import contextlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click
import pytest

from broker.cli import main as broker_cli
from lockstep_client.cli.main import cli
from tests.support.console import Shell, Step, blocks, matches, steps

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
RUN = ("console", "sh")
WITHIN = 30.0


SERVERS = "<!-- run with a real OpenBao and a real PostgreSQL -->"


def runs(page: Path) -> bool:
    return any(block.word in RUN for block in blocks(page.read_text()))


def environment() -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        # Bytecode is written as on any machine, and nothing of this machine's broker is known.
        if not name.startswith("LOCKSTEP_") and name not in ("PYTHONDONTWRITEBYTECODE", "XDG_RUNTIME_DIR")
    }
    kept |= {"VIRTUAL_ENV": sys.prefix}  # as an activated one
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "LC_ALL": "C.UTF-8"}


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)], ids=lambda page: page.stem)
def test_a_page_does_what_it_shows(page: Path, tmp_path: Path) -> None:
    for tool in ("curl", "openssl"):
        if f"{tool} " in page.read_text() and shutil.which(tool) is None:
            pytest.skip(f"{tool} is not here")
    with servers(page, tmp_path) as (more, meant), Shell(tmp_path, {**environment(), **more}) as shell:
        (shell.folder / "deploy").symlink_to(ROOT / "deploy")
        for block in blocks(page.read_text()):
            text = meant(block.text)
            if block.name:
                shell.write(block.name, text)
            elif block.word == "sh":
                code, said = shell.run(text, within=WITHIN)
                assert code == 0, f"{page.name}:{block.line} ended with {code}:\n{said}"
            elif block.word == "console":
                follow(shell, text, f"{page.name}:{block.line}")


@contextlib.contextmanager
def servers(page: Path, folder: Path) -> Iterator[tuple[Mapping[str, str], Callable[[str], str]]]:
    """Of a page that asks for them: what an operator has in the environment, and what names of the page mean."""
    if SERVERS not in page.read_text():
        yield {}, lambda text: text
        return
    from tests.support.openbao import openbao
    from tests.support.postgres import postgres

    with openbao(folder / "bao") as bao, postgres() as database:
        admin = database.superuser
        environ = {
            "BAO_ADDR": bao.address,
            "BAO_CACERT": str(bao.ca),
            "BAO_TOKEN": bao.root.token,
            "PGHOST": admin.host,
            "PGPORT": str(admin.port),
            "PGUSER": admin.user,
            "PGPASSWORD": admin.password,
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": str(admin.ca),
            "PATH": f"{database.program('psql').parent}:{environment()['PATH']}",
        }
        names = {
            "https://vault.acme.example:8200": bao.address,
            "/etc/lockstep/tls/vault-ca.pem": str(bao.ca),
            "/etc/lockstep/tls/database-ca.pem": str(admin.ca),
            "db.acme.example": admin.host,
            "= 5432": f"= {admin.port}",
        }

        def meant(text: str) -> str:
            for name, real in names.items():
                text = text.replace(name, real)
            return text

        yield environ, meant


def follow(shell: Shell, text: str, where: str) -> None:
    for step in steps(text):
        do(shell, step, where)


def do(shell: Shell, step: Step, where: str) -> None:
    code, said = shell.run(step.command, within=WITHIN)
    shown = f"{where}: $ {step.command}\n{said}"
    assert (code != 0) == step.fails, f"{shown}\nended with {code}; behind it:\n{shell.told()}"
    if step.behind:
        assert said == "", shown
        for line in step.expected:
            shell.hear(line, within=WITHIN)
    else:
        assert matches(step.expected, said), f"{shown}\ninstead of\n" + "\n".join(step.expected)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_command_hides_in_a_block_that_is_not_run(page: Path) -> None:
    for block in blocks(page.read_text()):
        if block.word == "sh":
            assert not re.search(r"&$", block.text, re.M), f"{page.name}:{block.line}: say so in a console"
        elif block.word != "console":
            assert block.word or page.name == "ARCHITECTURE.md", (
                f"{page.name}:{block.line}: text? sh? console?"
            )
            assert not re.search(r"^\$ ", block.text, re.M), f"{page.name}:{block.line} is not run"


def mentions() -> list[tuple[str, str]]:
    """Commands in the running text, and in blocks that are not run."""
    found = []
    for page in PAGES:
        text = page.read_text()
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
        for code in re.findall(r"`(lockstep(?:-broker)? [^`]*)`", prose):
            found.append((page.name, " ".join(code.split())))
        for block in blocks(text):
            if block.word not in RUN:
                found += [
                    (page.name, line) for line in re.findall(r"^lockstep(?:-broker)? .*", block.text, re.M)
                ]
    return found


@pytest.mark.parametrize(("page", "line"), mentions())
def test_a_command_that_is_mentioned_exists(page: str, line: str) -> None:
    words = shlex.split(line.replace("…", " "), comments=True)
    command: click.Command = cli if words[0] == "lockstep" else broker_cli
    rest = words[1:]
    # A group may show something by itself, and then takes options.
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        choices = rest.pop(0).split("|")
        known = [command.get_command(click.Context(command), name) for name in choices]
        assert None not in known, f"{page}: {line}"
        found = known[0]
        assert found is not None
        command = found
        if len(choices) > 1:
            return
    options = {name for item in command.params for name in (*item.opts, *item.secondary_opts)}
    given = rest[: rest.index("--")] if "--" in rest else rest
    for word in given:
        assert not word.startswith("-") or word.partition("=")[0] in {*options, "--help"}, f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_make_has_what_is_mentioned(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", page.read_text(), re.M)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }


@pytest.mark.parametrize(
    ("text", "said", "same"),
    [
        ("a …\nb", "a 1\nb\n", True),
        ("a\n…", "a\n", True),
        ("a\n…\nz", "a\nb\nc\nz\n", True),
        ("a (…)", "a (1)  \n", True),
        ("a b", "a    b\n", True),
        ("a … b", "a b\n", True),
        ("a … b", "a c b\n", True),
        ("a … b", "ab\n", False),
        ("a", "a\nb\n", False),
        ("a …", "a\n", False),
        ("", "a\n", False),
        ("a.c", "abc\n", False),
    ],
)
def test_what_counts_as_the_same(text: str, said: str, same: bool) -> None:
    assert matches(tuple(text.splitlines()), said) is same


def test_a_page_that_shows_something_else_fails(tmp_path: Path) -> None:
    with Shell(tmp_path, environment()) as shell:
        shell.write("word", "one\n")
        follow(shell, "$ cat word\none\n$ false\n$ echo $?\n1\n$ cat <<END\n> two\n> END\ntwo\n", "page")
        for wrong in ("$ cat word\ntwo", "$ cat word", "$ false", "$ echo one\n$ echo $?\n0"):
            with pytest.raises(AssertionError):
                follow(shell, wrong, "page")
        follow(shell, "$ (echo up; exit 3) &\n…\nup\n$ wait $!\n$ echo $?\n3\n", "page")
        follow(shell, f"$ echo D-{'a' * 26}\nD-…\n$ echo is D-…\nis D-{'a' * 26}\n", "page")
