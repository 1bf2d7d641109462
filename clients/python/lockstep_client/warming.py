"""Loads before the first measurement what the SDK would load for itself after it.

To the guard everything that comes after is news, and a broker that enforces
revokes for it: whoever approves a program approves the SDK with it, in one go.
"""

from __future__ import annotations

import codecs
import importlib
import sys
import traceback
import unicodedata  # noqa: F401 - tracebacks load it for carets under a line that is not ASCII

from lockstep_client.messages import InstanceKey


def load_all() -> None:
    """Do each thing once whose first time imports something; some milliseconds, and less the next time.

    What gRPC loads for a connection is there before a measurement too: `Exchange` connects first.
    """
    # cryptography loads its backend at the first signature, which comes after the measurement that it seals.
    InstanceKey.generate().seal(b"")
    codecs.lookup("ascii")  # identity tokens are read as that
    _traceback()
    if "sqlalchemy" in sys.modules:
        importlib.import_module("lockstep_client.sqlalchemy")


def _traceback() -> None:
    """What the log of a callback that failed needs: for its lines, for carets and for suggestions."""
    try:
        raise NameError("", name="_tracebacks")
    except NameError:
        traceback.format_exc()
