"""A guard inside the process: sees unapproved code before it runs, tells it, or stops it."""

from lockstep_client.guard.generators import ANYBODY, WITHIN, Generators
from lockstep_client.guard.observation import Approved, CodeRefused, GuardMode, Observation
from lockstep_client.guard.watch import Guard

__all__ = [
    "ANYBODY",
    "WITHIN",
    "Approved",
    "CodeRefused",
    "Generators",
    "Guard",
    "GuardMode",
    "Observation",
]
