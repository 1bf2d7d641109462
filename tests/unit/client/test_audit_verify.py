"""``lockstep audit verify`` names the first wrong line and what was done to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from broker.adapters.audit import AuditLines
from broker.crypto.ring import JwtRing
from lockstep.formats import CHECKPOINT_TYPE, audit_content_digest, audit_json, audit_line_hash
from lockstep_client.cli.main import cli
from tests.contract.state.nouns import decision

ISSUER = "https://broker.test"


class Ground:
    """A log of two runs: 1 2 [checkpoint] 3 | 4 5 [checkpoint] 6."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "audit.jsonl"
        self.old = ec.generate_private_key(ec.SECP256R1())
        self.ring = JwtRing(self.old, issuer=ISSUER, token_type=CHECKPOINT_TYPE)
        self.token = ""
        for chain, numbers in (("run-1", (1, 2, 3)), ("run-2", (4, 5, 6))):
            audit = AuditLines.append_to(self.path, chain)
            for number in numbers:
                audit.append(decision(number))
                if number in (2, 5):
                    self.checkpoint(audit)
            self.head = audit.head
            audit.close()
        self.lines = self.path.read_bytes().splitlines(keepends=True)
        self.jwks = folder / "jwks.json"
        self.jwks.write_text(json.dumps(self.ring.jwks()))

    def checkpoint(self, audit: AuditLines, **changes: Any) -> None:
        chain, count, found = audit.head
        claims = {"iss": ISSUER, "iat": 1, "chain": chain, "count": count, "hash": found, **changes}
        self.token = self.ring.sign(claims)
        audit.checkpoint(self.token)

    def verify(self, *options: str | Path, lines: list[bytes] | None = None) -> Result:
        if lines is not None:
            self.path.write_bytes(b"".join(lines))
        return CliRunner().invoke(cli, ["audit", "verify", str(self.path), *map(str, options)])

    def fault(self, lines: list[bytes], *options: str | Path) -> tuple[int, str]:
        found = self.verify("--json", *options, lines=lines)
        assert found.exit_code == 1, found.output
        said = json.loads(found.stdout)
        assert not said["whole"]
        return said["fault"]["line"], said["fault"]["kind"]


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


def test_a_whole_file(ground: Ground) -> None:
    found = ground.verify("--jwks", ground.jwks)
    assert found.exit_code == 0, found.output
    assert "whole: 8 lines of 2 runs" in found.output
    assert "2 checkpoints verified, over 6 lines" in found.output
    assert "give --expect" in found.output
    assert "not verified: give --jwks" in ground.verify().output


@pytest.mark.parametrize("number", range(8))
def test_an_edited_line(ground: Ground, number: int) -> None:
    old, new = (b'"T-1"', b'"T-2"') if number not in (2, 6) else (b'"checkpoint":"e', b'"checkpoint":"f')
    lines = [*ground.lines]
    lines[number] = lines[number].replace(old, new)
    assert lines != ground.lines
    assert ground.fault(lines) == (number + 1, "edited")


def test_a_line_whose_content_was_taken_out(ground: Ground) -> None:
    lines = [*ground.lines]
    content = json.loads(lines[3])
    del content["decision"]
    lines[3] = audit_json(content) + b"\n"
    assert ground.fault(lines) == (4, "edited")


@pytest.mark.parametrize("number", range(7))
def test_a_removed_line(ground: Ground, number: int) -> None:
    assert ground.fault(ground.lines[:number] + ground.lines[number + 1 :]) == (number + 1, "removed")


def test_lines_in_another_order_or_twice(ground: Ground) -> None:
    first, second, third, *rest = ground.lines
    assert ground.fault([first, third, second, *rest]) == (2, "reordered")
    assert ground.fault([second, first, third, *rest]) == (1, "reordered")
    assert ground.fault([first, second, second, third, *rest]) == (3, "reordered")


def test_a_line_that_was_replaced_with_its_hash(ground: Ground) -> None:
    """Whoever makes the hash anew breaks the next line; whoever makes all of them anew breaks a checkpoint."""
    lines, previous = [], "0" * 64
    for raw in ground.lines:
        content = json.loads(raw)
        if "decision" in content:
            content["decision"]["ticket"] = "T-2"
            content["digest"] = audit_content_digest(content["decision"])
        content["prev"] = previous
        content["hash"] = previous = audit_line_hash(content)
        lines.append(audit_json(content) + b"\n")
    assert ground.fault([lines[0], *ground.lines[1:]]) == (2, "removed")
    assert ground.verify(lines=lines).exit_code == 0
    assert ground.fault(lines, "--jwks", ground.jwks) == (3, "checkpoint")


def test_a_cut_tail_needs_something_to_expect(ground: Ground) -> None:
    _, count, found = ground.head
    place = f"{count}:{found}"
    assert ground.verify("--expect", place).exit_code == 0
    assert ground.verify(lines=ground.lines[:-1]).exit_code == 0
    assert ground.fault(ground.lines[:-1], "--expect", place) == (8, "cut")
    # A signed checkpoint does the same, on the command line or in a file.
    assert ground.verify("--expect", ground.token, "--jwks", ground.jwks).exit_code == 0
    kept = ground.path.with_name("kept")
    kept.write_text(ground.token)
    assert ground.fault(ground.lines[:4], "--expect", kept, "--jwks", ground.jwks) == (5, "cut")


def test_what_cannot_be_expected(ground: Ground) -> None:
    for options in (
        ["--expect", "nonsense"],
        ["--expect", ground.token],  # without keys, anybody could have written it
        ["--expect", ground.token[:-9] + "AAAAAAAAA", "--jwks", ground.jwks],
    ):
        assert ground.verify(*options).exit_code == 2


def test_a_line_torn_by_a_crash_is_named_and_no_fault(ground: Ground) -> None:
    torn = ground.lines[7][:50]
    said = ground.verify("--json", lines=[*ground.lines[:7], torn + b"\n", ground.lines[7]])
    assert (said.exit_code, json.loads(said.stdout)["torn"]) == (0, [8])
    said = ground.verify("--json", lines=[*ground.lines[:7], torn])
    assert (said.exit_code, json.loads(said.stdout)["torn"]) == (0, [8])
    # A line that somebody has made unreadable is another thing: the chain does not go on after it.
    assert ground.fault([*ground.lines[:3], torn + b"\n", *ground.lines[4:]]) == (4, "edited")
    assert ground.fault([*ground.lines[:3], b"junk\n", *ground.lines[3:]]) == (4, "edited")


def test_keys_of_earlier_times(ground: Ground) -> None:
    ground.ring.replace(ed25519.Ed25519PrivateKey.generate())
    audit = AuditLines.append_to(ground.path, "run-3")
    audit.append(decision(7))
    ground.checkpoint(audit)
    audit.close()
    now = ground.path.with_name("now.json")
    now.write_text(json.dumps(ground.ring.jwks()))
    found = ground.verify("--jwks", now, "--jwks", ground.jwks)
    assert "3 checkpoints verified" in found.output, found.output
    found = ground.verify("--jwks", now)
    assert found.exit_code == 1
    assert "give the key set of its time" in found.output


def test_a_key_set_that_is_none_is_no_fault_of_the_log(ground: Ground) -> None:
    ground.jwks.write_text("not JSON")
    found = ground.verify("--jwks", ground.jwks)
    assert found.exit_code == 2
    assert "--jwks" in found.output
    assert "checkpoint:" not in found.output


def test_a_checkpoint_of_another_place_or_type(ground: Ground) -> None:
    audit = AuditLines.append_to(ground.path, "run-3")
    audit.append(decision(7))
    ground.checkpoint(audit, hash="0" * 64)
    audit.close()
    assert ground.verify().exit_code == 0
    lines = ground.path.read_bytes().splitlines(keepends=True)
    assert ground.fault(lines, "--jwks", ground.jwks) == (10, "checkpoint")
    ground.ring = JwtRing(ground.old, issuer=ISSUER)
    ground.path.write_bytes(b"".join(ground.lines))
    audit = AuditLines.append_to(ground.path, "run-3")
    audit.append(decision(7))
    ground.checkpoint(audit)
    audit.close()
    lines = ground.path.read_bytes().splitlines(keepends=True)
    assert ground.fault(lines, "--jwks", ground.jwks) == (10, "checkpoint")
