"""The hooks that end a run with the search for canaries; a find fails the run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.support import canaries

_ASKED = bool(os.environ.get("LOCKSTEP_TEST_CANARY"))
_told: list[tuple[str, str]] = []
_found: list[str] = []
_folders: list[Path] = []


@pytest.fixture(scope="session", autouse=True)
def _files_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where tests write."""
    _folders.append(tmp_path_factory.getbasetemp())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What was captured, and what a failure shows."""
    if not _ASKED:
        return
    told = [text for _, text in report.sections]
    if report.failed:
        told.append(report.longreprtext)
    told += [str(value) for _, value in report.user_properties]
    if told:
        _told.append((f"what pytest captured of {report.nodeid} ({report.when})", "\n".join(told)))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Look through everything, when `LOCKSTEP_TEST_CANARY` asks for it."""
    wanted = canaries.needles() if _ASKED else {}
    if not wanted:
        return
    roots = list(_folders)
    junit = getattr(session.config.option, "xmlpath", None)
    if junit:
        roots.append(Path(junit))
    with tempfile.TemporaryDirectory() as scratch:
        _found.extend(canaries.in_files(roots, wanted, Path(scratch)))
        # Logs and captured texts go through the same search, by name of the file.
        named = {}
        texts = Path(scratch, "texts")
        texts.mkdir()
        for number, (name, text) in enumerate([*canaries.logs(), *_told]):
            file = Path(texts, f"text-{number}")
            # Hypothesis writes lone surrogates too: they must not stop the search.
            file.write_bytes(text.encode("utf-8", "surrogatepass"))
            named[str(file)] = name
        for line in canaries.in_files([texts], wanted, Path(scratch)):
            what, _, file_name = line.rpartition(": in ")
            _found.append(f"{what}: in {named[file_name]}")
    if _found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was found where, and never the secret."""
    if _found:
        terminalreporter.section("secrets were left behind", red=True)
        for line in _found:
            terminalreporter.write_line(line)
