"""Detectors that speak Standard Webhooks and the canonical event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from broker.adapters.detectors.canonical import MAX_BODY, parse_events
from broker.crypto.webhooks import VerifyingKey, verify
from broker.errors import InvalidRequest
from broker.model.detection import Detection
from broker.model.strict import Malformed
from lockstep.formats import Reason


class StandardDetector:
    """A `broker.ports.Detector`: the signature first, then the very bytes that were signed.

    Replays are the verb's business: `event_id` is the message's id, constant
    over retries, and is claimed once where the report takes effect.
    """

    def __init__(self, name: str, keys: Sequence[VerifyingKey], *, tolerance: float = 60.0) -> None:
        """Any of `keys` may sign, so that they can overlap in rotation; `tolerance` is in seconds, both ways.

        Raises ``ValueError`` without a key: nobody could report.
        """
        if not keys:
            raise ValueError(f"detector {name!r} has no key")
        self._name = name
        self._keys = tuple(keys)
        self._tolerance = tolerance

    def parse(self, headers: Mapping[str, str], body: bytes, now: float) -> Sequence[Detection]:
        """Authentic reports in a body. Raises `Denied` (detection_rejected) or `InvalidRequest`."""
        if len(body) > MAX_BODY:
            raise InvalidRequest(f"the body is larger than {MAX_BODY} bytes", reason=Reason.TOO_LARGE)
        delivery = verify(self._keys, headers, body, now=now, tolerance=self._tolerance)
        try:
            return parse_events(
                body, detector=self._name, event_id=delivery.message_id, sent_at=delivery.sent_at
            )
        except Malformed as error:
            raise InvalidRequest(str(error)) from None
