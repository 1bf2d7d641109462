"""A reload takes all of a configuration or nothing, also where a file changes between the check and the use."""

import asyncio
import ssl
import time
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker import bootstrap
from broker.adapters.clock import SystemClock
from broker.dev import make, pki
from broker.settings import Settings, load


async def test_a_key_that_breaks_after_the_check_leaves_the_certificate_as_it_was(tmp_path: Path) -> None:
    laptop = make(tmp_path / "dev", SystemClock())
    settings = load(laptop.configuration, {})
    certificate, active = settings.server.tls.certificate, settings.server.keys.credentials.active
    lines: list[str] = []

    def line(_: object, __: str, event: dict[str, object]) -> str:
        lines.append(f"{event.get('event')}: {event.get('problem', '')}")
        raise structlog.DropEvent

    def again() -> Settings:
        found = load(laptop.configuration, {})
        active.write_bytes(b"half a key")
        return found

    log = structlog.wrap_logger(
        None, processors=[line], wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    broker = await bootstrap.build(settings, again, log)
    try:
        await broker.start()
        folder = laptop.folder
        ca = pki.Authority(
            load_pem_private_key((folder / "ca.key").read_bytes(), None),  # type: ignore[arg-type]
            x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes()),
        )
        key = load_pem_private_key((folder / "server.key").read_bytes(), None).public_key()
        before = certificate.read_bytes()
        certificate.write_bytes(pki.server_certificate(ca, key, time.time()))  # type: ignore[arg-type]

        assert not await broker.reload()

        assert any("configuration refused" in item and str(active) in item for item in lines), lines
        address = ("127.0.0.1", broker.tls_port)
        shown = await in_thread(address)
        assert ssl.PEM_cert_to_DER_cert(shown) == ssl.PEM_cert_to_DER_cert(before.decode())
    finally:
        await broker.stop()


async def in_thread(address: tuple[str, int]) -> str:
    return await asyncio.to_thread(ssl.get_server_certificate, address, timeout=5)
