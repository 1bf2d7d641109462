"""OidcIdentity: signed JWTs of one configured issuer: OIDC, Kubernetes, CI jobs, SPIRE JWT-SVIDs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from broker.adapters.identity.fetch import HttpsFetch
from broker.adapters.identity.jwks import FileKeys, HttpKeys, KeySource
from broker.adapters.identity.presets import KNOWN_CLAIMS, Preset, instance_of, select_claims
from broker.adapters.identity.recent import Recent
from broker.adapters.identity.watched import Warn, no_warning
from broker.crypto.claims import check_audience, check_times, numeric_date, text_claim
from broker.crypto.jose import JoseError, UnknownKeyError, UnverifiedJws, open_jws, verify_jws
from broker.crypto.jwk import ALGORITHMS, KeySet
from broker.errors import Denied, Unavailable
from broker.model.identity import IdentityProof, JwtProof, SpiffeId, WorkloadIdentity
from lockstep.formats import Reason

# An identity token is an untyped JWT, an ID token, a JWT-SVID (section 2.3) or an access token of RFC 9068; never
# a proof, an event or a token of ours. Media types have no case (RFC 7515 section 4.1.9).
_TYPES: Final = frozenset({None, "jwt", "jose", "at+jwt"})
_RETRY_AFTER: Final = 5.0


@dataclass(frozen=True, slots=True)
class OidcRules:
    """What one identity source accepts.

    `issuer` is exactly ``iss``; empty only with `trust_domain`, where ``sub``
    must be a SPIFFE ID of that domain (JWT-SVID section 3). Times in seconds:
    `leeway` for ``nbf`` and ``iat``, never for ``exp``; `max_age` since ``iat``,
    None for no bound. `other_audiences` takes a token that is for others, too:
    any of them could use it here.
    """

    name: str
    issuer: str
    audience: str
    algorithms: frozenset[str]
    preset: Preset = Preset.OIDC
    trust_domain: str = ""
    claims: tuple[str, ...] = ()
    max_age: float | None = None
    leeway: float = 30.0
    other_audiences: bool = False

    def __post_init__(self) -> None:
        unknown = self.algorithms - ALGORITHMS.keys()
        if not self.algorithms or unknown:
            raise ValueError(f"algorithms: {', '.join(sorted(unknown)) or 'none'} cannot be used")
        if not self.audience:
            raise ValueError("audience: is missing")
        if self.preset is Preset.SPIRE and not self.trust_domain:
            raise ValueError("trust_domain: is missing; a SPIRE token is believed for one trust domain only")
        if not self.issuer and not self.trust_domain:
            raise ValueError("issuer: is missing")
        if self.trust_domain and "EdDSA" in self.algorithms:
            raise ValueError("algorithms: a JWT-SVID is not signed with EdDSA")

    def concerns(self, claims: Mapping[str, Any]) -> bool:
        """True where unverified claims name this source: for choosing, not for believing."""
        try:
            self.check_names(claims)
        except JoseError:
            return False
        return True

    def check_names(self, claims: Mapping[str, Any]) -> str:
        """The subject, where issuer, audience and trust domain are ours. Raises `JoseError`."""
        if self.issuer and text_claim(claims, "iss") != self.issuer:
            raise JoseError("another issuer")
        check_audience(claims, self.audience, allow_list=self.other_audiences)
        subject = text_claim(claims, "sub")
        if self.trust_domain:
            try:
                parsed = SpiffeId.parse(subject)
            except ValueError:
                raise JoseError("the subject is no SPIFFE ID") from None
            if parsed.trust_domain != self.trust_domain:
                raise JoseError("the subject is of another trust domain")
        return subject


@dataclass(frozen=True, slots=True)
class _Seen:
    """A token that was verified under one set of keys."""

    identity: WorkloadIdentity
    keys: KeySet
    good_until: float


class OidcIdentity:
    """An `IdentityVerifier` for one source. Raises `Denied` (identity_rejected: asking again is useless) and
    `Unavailable` (identity_unavailable: the issuer's keys cannot be had).

    A token that was verified is remembered until it ends or the keys change;
    whether its bearer was revoked is asked elsewhere, every time.
    """

    def __init__(self, rules: OidcRules, keys: KeySource) -> None:
        self._rules = rules
        self._source = keys
        self._seen: Recent[_Seen] = Recent()

    @property
    def rules(self) -> OidcRules:
        """What this source accepts."""
        return self._rules

    def close(self) -> None:
        """Look for keys no more."""
        self._source.close()

    async def verify(self, proof: IdentityProof, now: float) -> WorkloadIdentity:
        """The identity that a token proves at `now`."""
        if not isinstance(proof, JwtProof):
            raise Denied(Reason.IDENTITY_REJECTED, "this identity source takes tokens, not certificates")
        try:
            jws = self._open(proof.token)
            keys = await self._source.keys(now)
            name = hashlib.sha256(proof.token.encode("ascii")).digest()
            seen = self._seen.get(name)
            if seen is not None and seen.keys is keys and now < seen.good_until:
                return seen.identity
            try:
                claims = verify_jws(jws, keys)
            except UnknownKeyError:
                # The issuer may have rotated since the last look.
                keys = await self._newer(now)
                claims = verify_jws(jws, keys)
            identity, good_until = self._identity(claims, now)
        except JoseError as error:
            raise Denied(Reason.IDENTITY_REJECTED, f"the identity token is refused: {error}") from None
        self._seen.put(name, _Seen(identity, keys, good_until))
        return identity

    async def _newer(self, now: float) -> KeySet:
        """A token by a key that is unknown is refused only after a look: until then it may well be good."""
        keys = await self._source.newer(now)
        if keys is None:
            message = "the issuer's newest keys are not known yet"
            raise Unavailable(Reason.IDENTITY_UNAVAILABLE, message, retry_after=_RETRY_AFTER)
        return keys

    def _open(self, token: str) -> UnverifiedJws:
        # 1. One spelling, no key of its own, an algorithm of ours (RFC 8725 sections 3.1, 3.2, 3.5).
        jws = open_jws(token)
        if jws.algorithm not in self._rules.algorithms:
            raise JoseError("an algorithm that this source does not use")
        # 2. No other kind of token (RFC 8725 section 3.11).
        if (jws.typ.lower() if jws.typ is not None else None) not in _TYPES:
            raise JoseError("another type of token")
        # 3. For us, so that a stranger's token makes nobody look for keys.
        self._rules.check_names(jws.unverified_claims())
        return jws

    def _identity(self, claims: Mapping[str, Any], now: float) -> tuple[WorkloadIdentity, float]:
        # 4. The same names once more, now from inside the signature; times; what the issuer says besides.
        rules = self._rules
        subject = rules.check_names(claims)
        expires = check_times(claims, now, leeway=rules.leeway, max_age=rules.max_age)
        issued = numeric_date(claims, "iat")
        too_old = float("inf") if rules.max_age is None or issued is None else issued + rules.max_age
        identity = WorkloadIdentity(
            provider=rules.name,
            issuer=None if rules.trust_domain else rules.issuer,
            subject=subject,
            not_after=expires,
            claims=select_claims(claims, dict.fromkeys((*KNOWN_CLAIMS[rules.preset], *rules.claims))),
            instance=instance_of(rules.preset, claims),
        )
        return identity, min(expires, too_old)


def oidc_identity(
    rules: OidcRules,
    *,
    jwks_file: str | os.PathLike[str] | None = None,
    jwks_url: str = "",
    ca_file: str | os.PathLike[str] | None = None,
    jwks_hosts: frozenset[str] = frozenset(),
    warn: Warn = no_warning,
) -> OidcIdentity:
    """A source whose keys come from a file, a URL, or the issuer's discovery document.

    `jwks_hosts` (``host:port``) are further hosts that discovery may point to;
    `ca_file` replaces the system's authorities. Raises ``ValueError``.
    """
    if jwks_file is not None:
        return OidcIdentity(rules, FileKeys(jwks_file, rules.algorithms, warn=warn))
    fetch = HttpsFetch(ca_file)
    keys = HttpKeys(fetch, rules.issuer, rules.algorithms, jwks_url=jwks_url, hosts=jwks_hosts, warn=warn)
    return OidcIdentity(rules, keys)
