"""Many callers that come at once: each is shaken hands with, whatever becomes of the certificate meanwhile."""

from __future__ import annotations

import itertools
import shutil
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.brokers import Broker, dev_broker, fresh_certificate

HERE = Path(__file__).parent
AT_ONCE = 8
EACH = 250


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Broker]:
    roles = Path(shutil.copy(HERE / "roles.toml", tmp_path / "roles.toml"))
    with dev_broker(tmp_path / "dev", roles) as running:
        yield running


class Crowd:
    """Callers that greet the door for tokens over and over; `greeted` counts the certificates that they were shown."""

    def __init__(self, broker: Broker) -> None:
        self._port = broker.ports["tls"]
        self._context = ssl.create_default_context(cadata=broker.ca.read_text())
        self._context.set_alpn_protocols(["h2"])
        self.greeted: Counter[bytes] = Counter()

    def greet(self) -> None:
        """One TLS connection; raises `OSError` where the door does not keep its side."""
        with (
            socket.create_connection(("127.0.0.1", self._port), timeout=15) as raw,
            self._context.wrap_socket(raw, server_hostname="localhost") as tls,
        ):
            assert tls.selected_alpn_protocol() == "h2"
            shown = tls.getpeercert(binary_form=True)
            assert shown is not None
            self.greeted[shown] += 1


def test_callers_that_come_at_once_do_not_end_the_broker(busy: Broker) -> None:
    crowd = Crowd(busy)

    def each(_: int) -> None:
        for _ in range(EACH):
            crowd.greet()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(each, range(AT_ONCE)))
    assert busy.stop() == 0


def test_a_certificate_changes_in_the_middle_of_a_crowd(busy: Broker) -> None:
    crowd = Crowd(busy)
    over = threading.Event()

    def each(_: int) -> None:
        for number in itertools.count():
            if over.is_set() and number >= EACH:
                return
            crowd.greet()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        callers = [pool.submit(each, number) for number in range(AT_ONCE)]
        try:
            changed = []
            for _ in range(5):
                changed.append(ssl.PEM_cert_to_DER_cert(fresh_certificate(busy).decode()))
                assert busy.reload()
                crowd.greet()
        finally:
            over.set()
        for caller in callers:
            caller.result(60)
    assert set(changed) <= set(crowd.greeted)
    assert busy.stop() == 0
