"""Names that those chose whom the reader is about to judge: each stays on its line, and is seen as it is."""

from __future__ import annotations

import pytest

from lockstep.v1 import decision_pb2, evidence_pb2
from lockstep_client.cli import ask, show
from lockstep_client.cli.manifest_views import show_difference
from lockstep_client.manifest import Difference
from lockstep_client.words import plain

FORGED = "x.py\n+ base 12 units\x1b[1A\u202e\u200b\x7f\ud800"
SHOWN = "x.py\\n+ base 12 units\\x1b[1A\\u202e\\u200b\\x7f\\ud800"


def test_what_is_shown() -> None:
    assert plain(FORGED) == SHOWN
    assert plain("Ünits, “quoted” – 日本") == "Ünits, “quoted” – 日本"


def test_a_decision_s_findings(capsys: pytest.CaptureFixture[str]) -> None:
    wired = FORGED[:-1]
    finding = decision_pb2.Finding(path=wired, kind=evidence_pb2.UNIT_KIND_SCRIPT, reason="unit_not_approved")
    decision = decision_pb2.Decision(decision_id="D-1", findings=[finding], findings_total=1)
    ask._findings(decision_pb2.ExplainDecisionResponse(decision=decision, nearest=[wired]), everything=True)
    lines = capsys.readouterr().out.splitlines()
    assert f"  unit_not_approved: script {SHOWN[:-6]}" in lines
    assert all(line.isprintable() and not line.startswith("+") for line in lines)


def test_tables_and_facts(capsys: pytest.CaptureFixture[str]) -> None:
    show.table([(FORGED, "b")], ("one", "two"))
    show.facts([("name", FORGED)])
    assert capsys.readouterr().out.splitlines()[1:] == [f"{SHOWN}  b", f"name  {SHOWN}"]


def test_what_is_about_to_be_approved(capsys: pytest.CaptureFixture[str]) -> None:
    show_difference(Difference((), (FORGED,), (), (), 1, 0, 0))
    out = capsys.readouterr().out
    assert "+ x.py\\n+ base 12 units\\x1b[1A" in out
    assert "\n+ base" not in out
