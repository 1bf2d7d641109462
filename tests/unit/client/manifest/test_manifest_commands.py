"""The manifest commands against a broker's services over real TLS."""

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from broker.crypto.dsse import DsseVerifier
from broker.model.manifest import ManifestState, parse_manifest
from lockstep.formats import FindingReason
from lockstep.v1 import decision_pb2, evidence_pb2
from lockstep_client.cli.manifest import manifest_group
from tests.fakes.manifests import TOKEN, Desk, serve
from tests.fakes.tls import server_files

Run = Callable[..., Result]


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Any]:
    """Two signers' private keys, in files named after them."""
    found = {}
    for name in ("dev", "release"):
        found[name] = ec.generate_private_key(ec.SECP256R1())
        path = tmp_path / f"{name}.key"
        path.touch(0o600)
        path.write_bytes(
            found[name].private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        public = found[name].public_key()
        (tmp_path / f"{name}.pub").write_bytes(
            public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    return found


@pytest.fixture
def desk(tmp_path: Path, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    found = Desk(DsseVerifier({name: key.public_key() for name, key in keys.items()}))
    tls = server_files(tmp_path)
    server, address = serve(found, tls)
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv("LOCKSTEP_ADDRESS", address)
    monkeypatch.setenv("LOCKSTEP_CA_FILE", str(tls.ca_file))
    monkeypatch.setenv("LOCKSTEP_OPERATOR_TOKEN_FILE", str(tmp_path / "token"))
    yield found
    server.stop(0).wait(5)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def invoke(*words: str, text: str | None = None, code: int = 0) -> Result:
        result = CliRunner().invoke(manifest_group, words, input=text)
        assert result.exit_code == code, (result.output, result.stderr, result.exception)
        return result

    return invoke


@pytest.fixture
def built(site: Any, run: Run) -> Run:
    """``payments-1.json`` is there."""
    site.install("pay", "1.0", {"pay/core.py": "y = 2\n"})
    run("build", "-a", "payments", "--site-packages", str(site.folder), "--not-before", "2026-01-01")
    return run


def test_from_build_to_in_force(desk: Desk, keys: dict[str, Any], built: Run) -> None:
    said = built("sign", "payments-1.json", "--key", "dev.key").output
    assert "next: lockstep manifest publish payments-1.dsse.json" in said
    assert "signed by dev.pub" in built("verify", "payments-1.dsse.json", "--public", "dev.pub").output
    assert built("publish", "payments-1.dsse.json").output == "published payments@1, in force · D-PUB\n"
    [kept] = desk.kept
    assert kept.state is ManifestState.IN_FORCE
    assert "pay 1.0" in built("show", "payments").output or "pkg:pypi/pay" in built("show", "payments").output
    assert "payments@1" in built("list").output


def test_two_signers_in_two_steps(desk: Desk, keys: dict[str, Any], built: Run) -> None:
    desk.threshold = 2
    built("sign", "payments-1.json", "--key", "dev.key")
    first = built(
        "verify",
        "payments-1.dsse.json",
        "--public",
        "dev.pub",
        "--public",
        "release.pub",
        "--threshold",
        "2",
        code=1,
    )
    assert "1 of 2" in first.stderr
    built("sign", "payments-1.dsse.json", "--key", "release.key")
    assert "in force" in built("publish", "payments-1.dsse.json").output


def test_missing_signatures_are_told(desk: Desk, keys: dict[str, Any], built: Run) -> None:
    desk.threshold = 2
    built("sign", "payments-1.json", "--key", "dev.key")
    said = built("publish", "payments-1.dsse.json").output
    assert "not in force: 1 of 2 signatures" in said
    assert "1 more signer:" in said


def test_programs_get_json(desk: Desk, keys: dict[str, Any], built: Run) -> None:
    built("sign", "payments-1.json", "--key", "dev.key", "--json")
    published = json.loads(built("publish", "payments-1.dsse.json", "--json").output)
    assert (published["in_force"], published["application"], published["signers"]) == (
        True,
        "payments",
        ["dev"],
    )
    assert json.loads(built("list", "--json").output)[0]["state"] == "in force"
    assert json.loads(built("show", "payments@1", "--json").output)["packages"] == {"pkg:pypi/pay@1.0": 2}


def test_the_same_build_gives_the_same_file(site: Any, run: Run, tmp_path: Path) -> None:
    site.install("pay", "1.0", {"pay/core.py": "y = 2\n"})
    for name in ("one", "two"):
        run("build", "-a", "payments", "--site-packages", str(site.folder), "-o", name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert parse_manifest((tmp_path / "one").read_bytes()).application == "payments"


def test_compile_writes_the_bytecode_that_imports_would(site: Any, run: Run, tmp_path: Path) -> None:
    site.install("pay", "1.0", {"pay/core.py": "y = 2\n"}, compiled=False)
    said = run("build", "-a", "p", "--site-packages", str(site.folder))
    assert "1 sources have no bytecode" in said.stderr
    run("build", "-a", "p", "--site-packages", str(site.folder), "--compile")
    assert len(parse_manifest((tmp_path / "p-1.json").read_bytes()).units) == 2


def test_a_diff_tells_an_upgrade(site: Any, run: Run) -> None:
    site.install("pay", "1.0", {"pay/core.py": "y = 2\n"})
    run("build", "-a", "p", "--site-packages", str(site.folder), "-o", "a")
    (site.folder / "pay-1.0.dist-info" / "RECORD").unlink()
    site.install("pay", "2.0", {"pay/core.py": "y = 3\n"})
    run("build", "-a", "p", "--site-packages", str(site.folder), "-o", "b")
    assert json.loads(run("diff", "a", "b", "--json").output)["packages"] == [
        {
            "name": "pkg:pypi/pay",
            "change": "upgraded",
            "before": ["1.0"],
            "after": ["2.0"],
            "added": 2,
            "removed": 2,
        }
    ]
    assert "2 units come, 2 go, 0 units stay" in run("diff", "a", "b").output


def explained(*sources: Path, application: str = "payments") -> decision_pb2.ExplainDecisionResponse:
    digests = sorted(sha256(path.read_bytes()).digest() for path in sources)
    return decision_pb2.ExplainDecisionResponse(
        decision=decision_pb2.Decision(decision_id="D-7K2", application=application),
        code_set=[evidence_pb2.UnitSet(kind=evidence_pb2.UNIT_KIND_PYTHON_SOURCE, digests=digests)],
        hints=[
            evidence_pb2.UnitHint(digest=sha256(path.read_bytes()).digest(), path=str(path), name=path.stem)
            for path in sources
        ],
    )


@pytest.fixture
def sources(site: Any, tmp_path: Path) -> list[Path]:
    site.install(
        "fastapi", "0.115.0", {"fastapi/app.py": "f = 1\n", "fastapi/more.py": "f = 2\n"}, compiled=False
    )
    own = tmp_path / "api.py"
    own.write_text("own = 1\n")
    return [site.folder / "fastapi" / "app.py", site.folder / "fastapi" / "more.py", own]


def test_approve_publishes_what_a_decision_refused(
    desk: Desk, keys: dict[str, Any], run: Run, sources: list[Path]
) -> None:
    desk.decisions["D-7K2"] = explained(*sources)
    said = run("approve", "--from", "D-7K2", "--key", "dev.key", text="y\n").output
    assert "+ fastapi 0.115.0 2\n" in said
    assert "! 1 unit of no package: api.py\n" in said
    assert "publish payments@1, signed by dev? [y/N]: y\n" in said
    assert "published payments@1, in force" in said
    [kept] = desk.kept
    assert len(kept.manifest.units) == 3
    assert kept.manifest.label == "D-7K2"


def test_own_code_is_told_before_whatever_else_no_package_names(
    desk: Desk, keys: dict[str, Any], run: Run, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("0-elsewhere")
    environment = tmp_path / ".venv" / "lib" / "site-packages"
    environment.mkdir(parents=True)
    own, vendored = tmp_path / "pay.py", environment / "loose.py"
    foreign = [elsewhere / f"m{number}.py" for number in range(12)]
    for path in (own, vendored, *foreign):
        path.write_text(f"name = {path.name!r}\n")
    desk.decisions["D-7K2"] = explained(own, vendored, *foreign)
    said = run("approve", "--from", "D-7K2", "--key", "dev.key", "--yes").output
    assert f"! 14 units of no package: pay.py .venv/lib/site-packages/loose.py {foreign[0]} " in said


def test_approve_builds_on_what_is_in_force(
    desk: Desk, keys: dict[str, Any], run: Run, sources: list[Path]
) -> None:
    desk.decisions["D-1"] = explained(sources[0])
    desk.decisions["D-2"] = explained(*sources)
    run("approve", "--from", "D-1", "--key", "dev.key", "--yes")
    run("approve", "--from", "D-2", "--key", "dev.key", "--yes")
    assert [(item.manifest.version, len(item.manifest.units)) for item in desk.kept] == [(1, 1), (2, 3)]
    assert "approved already" in run("approve", "--from", "D-2", "--key", "dev.key", "--yes", code=1).stderr


def test_an_upgraded_package_replaces_the_old_one(
    desk: Desk, keys: dict[str, Any], run: Run, sources: list[Path], site: Any
) -> None:
    desk.decisions["D-1"] = explained(*sources)
    run("approve", "--from", "D-1", "--key", "dev.key", "--yes")
    (site.folder / "fastapi-0.115.0.dist-info" / "RECORD").unlink()
    site.install("fastapi", "0.116.0", {"fastapi/app.py": "f = 3\n"}, compiled=False)
    desk.decisions["D-2"] = explained(sources[0])
    said = run("approve", "--from", "D-2", "--key", "dev.key", "--yes").output
    assert "0.115.0" in said
    assert "0.116.0" in said
    packages = {entry.package for entry in desk.kept[-1].manifest.units.values()}
    assert packages == {"pkg:pypi/fastapi@0.116.0", ""}
    desk.kept.pop()
    run("approve", "--from", "D-2", "--key", "dev.key", "--yes", "--keep-old")
    assert len(desk.kept[-1].manifest.units) == 4


def test_approve_one_file_only(desk: Desk, keys: dict[str, Any], run: Run, sources: list[Path]) -> None:
    desk.decisions["D-1"] = explained(*sources)
    prefix = sha256(sources[2].read_bytes()).hexdigest()[:8]
    run("approve", "--from", "D-1", "--unit", prefix, "--key", "dev.key", "--yes")
    assert [entry.paths for entry in desk.kept[0].manifest.units.values()] == [(str(sources[2]),)]
    assert (
        "no unit"
        in run("approve", "--from", "D-1", "--unit", "ffff", "--key", "dev.key", "--yes", code=1).stderr
    )


def test_what_an_included_layer_approves_is_not_said_twice(
    desk: Desk, keys: dict[str, Any], run: Run, sources: list[Path], site: Any
) -> None:
    run("build", "-a", "base", "--site-packages", str(site.folder))
    run("build", "-a", "payments", "--app", str(sources[2]), "--include", "base")
    for name in ("base", "payments"):
        run("sign", f"{name}-1.json", "--key", "dev.key")
        run("publish", f"{name}-1.dsse.json")
    late = sources[2].with_name("late.py")
    late.write_text("late = 1\n")
    desk.decisions["D-1"] = explained(*sources, late)
    run("approve", "--from", "D-1", "--key", "dev.key", "--yes")
    found = desk.kept[-1].manifest
    assert found.includes == ("base",)
    assert {path for entry in found.units.values() for path in entry.paths} == {str(sources[2]), str(late)}


def test_permissions_are_asked_for_and_what_cannot_be_had_is_said(
    desk: Desk, keys: dict[str, Any], run: Run, sources: list[Path]
) -> None:
    answer = explained(sources[0])
    for reason, path, name in (
        (FindingReason.ANONYMOUS_CODE, "", "rwxp"),
        (FindingReason.UNKNOWN_CODE, "python -c", "text"),
        (FindingReason.DELETED_FILE, "/lib/x.so", "r-xp"),
    ):
        answer.decision.findings.append(decision_pb2.Finding(reason=reason.value, path=path, name=name))
    desk.decisions["D-1"] = answer
    said = run("approve", "--from", "D-1", "--key", "dev.key", text="n\n", code=1).output
    assert "anonymous executable memory allowed: rwxp" in said
    assert "code without a file allowed: python -c" in said
    assert "not approvable: /lib/x.so: its file was deleted or replaced; restart the process" in said
    assert desk.kept == []


def test_what_a_detector_met_later_can_be_approved(
    desk: Desk, keys: dict[str, Any], run: Run, sources: list[Path]
) -> None:
    answer = explained(sources[0])
    text = sha256(b"text").digest()
    body = sha256(b"body").digest()
    for kind, digest, path in (
        (evidence_pb2.UNIT_KIND_UNSPECIFIED, text, ""),
        (evidence_pb2.UNIT_KIND_PYTHON_SOURCE, body, "/x/__pycache__/late.cpython-313.pyc"),
    ):
        finding = decision_pb2.Finding(
            reason="unit_not_approved", kind=kind, digest=digest, path=path, name="late"
        )
        answer.decision.findings.append(finding)
    desk.decisions["D-8Q1"] = answer
    run(
        "approve",
        "--from",
        "D-8Q1",
        "--unit",
        body.hex()[:6],
        "--unit",
        text.hex()[:6],
        "--key",
        "dev.key",
        "--yes",
    )
    assert {(unit.kind.value, unit.digest) for unit in desk.kept[0].manifest.units} == {
        ("data_code", text),
        ("python_bytecode", body),
    }


def test_what_begins_later_is_not_called_in_force(
    desk: Desk, keys: dict[str, Any], run: Run, sources: list[Path]
) -> None:
    run("build", "-a", "payments", "--app", str(sources[2]), "--not-before", "2999-11-01 06:30:00")
    run("sign", "payments-1.json", "--key", "dev.key")
    said = run("publish", "payments-1.dsse.json").output
    assert said == "published payments@1, in force from 2999-11-01 06:30 · D-PUB\n"
    assert "from 2999-11-01 06:30" in run("list").output
    assert "in force" not in run("list").output
    assert "not yet in force" in run("show", "payments@1").output
    assert json.loads(run("list", "--json").output)[0]["state"] == "not yet in force"


def test_an_older_version_comes_after_the_floor_is_lowered(
    desk: Desk, keys: dict[str, Any], run: Run, sources: list[Path]
) -> None:
    for version in ("2026", "3"):
        run("build", "-a", "payments", "--version", version, "--app", str(sources[2]))
        run("sign", f"payments-{version}.json", "--key", "dev.key")
    run("publish", "payments-2026.dsse.json")
    assert "rollback" in run("publish", "payments-3.dsse.json", code=1).stderr
    run("lower", "payments", "--to", "3", "--reason", "a year by mistake", text="n\n", code=1)
    assert desk.said == []
    said = run(
        "lower", "payments", "--to", "3", "--reason", "a year by mistake", "--ticket", "T-1", "--yes"
    ).output
    assert said == "lowered payments: version 3 or later, not 2026 · D-LOW\n"
    assert desk.said == [("a year by mistake", "T-1")]
    run("publish", "payments-3.dsse.json")


def test_a_proposal_stands_in_no_approval_s_way(
    desk: Desk, keys: dict[str, Any], run: Run, sources: list[Path]
) -> None:
    """One of several signers has proposed the greatest version that there is."""
    desk.threshold = 2
    run("build", "-a", "payments", "--version", str(2**53 - 1), "--app", str(sources[2]))
    run("sign", f"payments-{2**53 - 1}.json", "--key", "release.key")
    run("publish", f"payments-{2**53 - 1}.dsse.json")
    desk.threshold = 1
    desk.decisions["D-1"] = explained(sources[0])
    assert (
        "published payments@1, in force"
        in run("approve", "--from", "D-1", "--key", "dev.key", "--yes").output
    )
    run("withdraw", f"payments@{2**53 - 1}", "--reason", "bogus", "--yes")
    desk.decisions["D-2"] = explained(*sources)
    desk.floors["payments"] = 1
    assert (
        "published payments@2, in force"
        in run("approve", "--from", "D-2", "--key", "dev.key", "--yes").output
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-a", "x y"), "'x y' is no name of an application"),
        (("-a", ""), "is no name of an application"),
        (("-a", "pay", "--include", "zahlung-ü"), "'zahlung-ü' is no name of an application"),
        (("-a", "pay", "--version", str(2**53)), "version 9007199254740992: from 1 to 9007199254740991"),
    ],
)
def test_what_no_broker_takes_is_not_built(
    run: Run, sources: list[Path], tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    assert says in run("build", *words, "--app", str(sources[2]), "-o", "out.json", code=1).stderr
    assert not (tmp_path / "out.json").exists()


def test_retire_and_withdraw(desk: Desk, keys: dict[str, Any], built: Run) -> None:
    built("sign", "payments-1.json", "--key", "dev.key")
    built("publish", "payments-1.dsse.json")
    assert "retired payments@1" in built("retire", "payments@1", "--reason", "old", "--yes").output
    assert "no manifest" in built("list", "payments").output
    assert "retired" in built("list", "--all").output
    digest = desk.kept[0].manifest.digest.hex()
    built("withdraw", digest, "--reason", "bad", "--ticket", "T-1", text="n\n", code=1)
    assert desk.kept[0].state is ManifestState.RETIRED
    said = built("withdraw", digest, "--reason", "bad", "--ticket", "T-1", text="y\n").output
    assert "4 instances revoked" in said
    assert "next: lockstep receipts V-1" in said
    assert desk.said == [("old", ""), ("bad", "T-1")]


def test_errors_say_what_to_do(desk: Desk, keys: dict[str, Any], built: Run, tmp_path: Path) -> None:
    assert "next: lockstep manifest sign" in built("publish", "payments-1.json", code=1).stderr
    assert "--environment .venv --app src" in built("build", "-a", "x", code=1).stderr
    assert "--key FILE" in built("sign", "payments-1.json", code=1).stderr
    failed = built("show", "nobody@3", code=1).stderr
    assert "no such manifest (not_found)\n  next: compare the id; lockstep manifest list --all" in failed
    said = json.loads(built("show", "nobody@3", "--json", code=1).stderr)
    assert (said["reason"], said["error"]) == ("not_found", "no such manifest")
    (tmp_path / "dev.key").chmod(0o644)
    assert "chmod 600" in built("sign", "payments-1.json", "--key", "dev.key", code=1).stderr


def test_exit_codes(
    desk: Desk, keys: dict[str, Any], built: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("somebody.else.x")
    assert "LOCKSTEP_OPERATOR_TOKEN_FILE" in built("list", code=78).stderr
    monkeypatch.delenv("LOCKSTEP_OPERATOR_TOKEN_FILE")
    assert "who asks" in built("list", code=2).stderr
    monkeypatch.delenv("LOCKSTEP_ADDRESS")
    assert "LOCKSTEP_ADDRESS" in built("list", code=2).stderr
    monkeypatch.setenv("LOCKSTEP_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("LOCKSTEP_OPERATOR_TOKEN_FILE", str(tmp_path / "token"))
    assert "try again" in built("list", code=75).stderr
