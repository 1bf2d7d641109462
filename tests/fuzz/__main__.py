"""`python -m tests.fuzz TARGET [libFuzzer's options]`: inputs that a parser does not stand, by coverage."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["broker", "lockstep"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Does not return from a search: libFuzzer ends the process."""
    if sys.argv[1:] == ["--list"]:
        print(*TARGETS)
        return
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        raise SystemExit(f"name a target: {', '.join(TARGETS)}")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()


main()
