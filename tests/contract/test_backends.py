"""The built-in signer and the fake keep to the contract of credential backends."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.adapters.backends.jwt import JwtBackend
from broker.crypto.ring import JwtRing
from tests.contract.backend_suite import BackendSuite
from tests.fakes.backend import FakeBackend

ISSUER = "https://lockstep.example"


class TestJwtBackend(BackendSuite):
    @pytest.fixture
    def backend(self) -> JwtBackend:
        return JwtBackend(JwtRing(ec.generate_private_key(ec.SECP256R1()), issuer=ISSUER), ISSUER)


class TestFakeBackend(BackendSuite):
    @pytest.fixture
    def backend(self) -> FakeBackend:
        return FakeBackend()
