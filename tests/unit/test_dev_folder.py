"""The folder of a laptop's broker: what a second look at it must leave alone."""

from pathlib import Path

from broker.adapters.clock import SystemClock
from broker.dev import make
from broker.settings import load


def test_looking_for_the_broker_leaves_its_configuration_alone(tmp_path: Path) -> None:
    """`dev --export` runs while `dev --enforce --with` serves: a reload must find what was started."""
    folder, more = tmp_path / "dev", tmp_path / "more.toml"
    more.write_text(
        '[resource_servers.more]\nidentity = { from = "dev", subject = "m" }\naudiences = ["dev"]\n'
    )
    started = make(folder, SystemClock(), enforce=True, includes=[more])
    before = started.configuration.read_bytes()

    found = make(folder, SystemClock(), keep=True)

    assert found.configuration.read_bytes() == before
    assert found.environment() == started.environment()
    assert {"more", "dev"} <= set(load(found.configuration, {}).book.resource_servers)


def test_a_first_look_makes_a_whole_folder(tmp_path: Path) -> None:
    laptop = make(tmp_path / "dev", SystemClock(), keep=True)

    assert set(load(laptop.configuration, {}).book.roles) == {"dev"}
