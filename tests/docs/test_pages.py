"""What the pages show is true: configuration loads, examples parse, links lead somewhere."""

import json
import re
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.adapters.clock import SystemClock
from broker.adapters.detectors.standard import StandardDetector
from broker.api.metrics import Metrics
from broker.crypto.keyfiles import public_pem
from broker.crypto.webhooks import HmacKey, signed_headers
from broker.dev import make
from broker.dev.files import kept_secret
from broker.settings import load
from lockstep.formats import Reason

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])


def blocks(language: str) -> list[ParameterSet]:
    found = []
    for page in PAGES:
        shown = re.findall(rf"^```{language}(?: [^\n]*)?\n(.*?)^```", page.read_text(), re.M | re.S)
        found += [pytest.param(text, id=f"{page.name}-{number}") for number, text in enumerate(shown)]
    return found


# What a whole broker's file shows is checked, and served, by `test_console`.
@pytest.mark.parametrize("text", [item for item in blocks("toml") if "[listen]" not in str(item.values[0])])
def test_configuration_loads(text: str, tmp_path: Path) -> None:
    dev = tmp_path / "dev"
    make(dev, SystemClock())
    shown = tmp_path / "shown.toml"
    stands_for = {
        "/run/spire/bundle.pem": "mesh-ca.crt",
        "/etc/lockstep/tls/vault-ca.pem": "ca.crt",
        "/etc/lockstep/tls/database-ca.pem": "ca.crt",
    }
    for name, file in stands_for.items():
        text = text.replace(json.dumps(name), json.dumps(str(dev / file)))
    shown.write_text(text)
    for name in re.findall(r'_file\s*= "([\w-]+)"', text):
        kept_secret(tmp_path / name, prefix="")
    (tmp_path / "falco.hmac").write_bytes((dev / "detector.secret").read_bytes())
    (tmp_path / "falco.hmac").chmod(0o600)
    for folder in re.findall(r'^source\s*=\s*"([^"]+)"', text, re.M):
        (tmp_path / folder).mkdir(exist_ok=True)
    for name in re.findall(r'"(\w+\.pub)"', text):
        (tmp_path / name).write_bytes(public_pem(Ed25519PrivateKey.generate().public_key()))
    laptop = make(dev, SystemClock(), includes=[shown])
    assert load(laptop.configuration, {}).book.roles


@pytest.mark.parametrize("text", blocks("json"))
def test_an_event_is_one_that_the_webhook_takes(text: str) -> None:
    key = HmacKey(bytes(range(32)))
    now = 1_790_000_000.0
    headers = signed_headers([key], "msg_1", int(now), text.encode())
    (found,) = StandardDetector("falco", [key]).parse(headers, text.encode(), now)
    assert found.subject.process.exact()


@pytest.mark.parametrize("text", blocks("python"))
def test_python_is_python(text: str) -> None:
    compile(text, "page", "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_places_in_this_house_are_there(page: Path) -> None:
    for place in re.findall(r"`((?:\w+/)[\w./*-]*)`", page.read_text()):
        if (ROOT / place.split("/")[0]).is_dir():
            assert list(ROOT.glob(place.rstrip("/"))), place


def test_every_reason_code_is_explained() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    assert re.findall(r"^\| `([a-z_]+)` \|", page, re.M) == [reason.value for reason in Reason]


def test_metrics_that_are_named_are_there() -> None:
    shown = set(re.findall(r"\blockstep_[a-z_]+", (ROOT / "docs" / "operations.md").read_text()))
    shown -= {"lockstep_client"}
    families = list(Metrics().registry.collect())
    suffixes = {"counter": "_total", "histogram": "_bucket", "gauge": ""}
    known = {name for item in families for name in (item.name, item.name + suffixes[item.type])}
    assert shown <= known
    assert len(shown) > 5
