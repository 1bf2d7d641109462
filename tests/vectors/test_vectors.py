"""The vectors are what the code says today, and what the standards say of them."""

import json
from pathlib import Path

import pytest

from tests.vectors.make import VECTORS

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", VECTORS)
def test_what_others_read_is_what_we_compute(name: str) -> None:
    assert json.loads((HERE / f"{name}.json").read_text()) == json.loads(json.dumps(VECTORS[name]()))


def test_thumbprints_are_those_of_the_rfcs() -> None:
    rsa, okp = json.loads((HERE / "thumbprint.json").read_text())
    assert rsa["thumbprint"] == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"  # RFC 7638 section 3.1
    assert okp["thumbprint"] == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"  # RFC 8037 appendix A.3


def test_the_empty_code_set_is_the_digest_of_nothing() -> None:
    first = json.loads((HERE / "code_set.json").read_text())[0]
    assert first["code_set_digest"] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
