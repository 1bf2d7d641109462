"""A guard inside the process: sees unapproved code before it runs, tells it, or stops it."""

from lockstep_client.guard.generators import LIBRARIES, STANDARD
from lockstep_client.guard.observation import Approved, CodeRefused, GuardMode, Observation
from lockstep_client.guard.watch import Guard

__all__ = ["LIBRARIES", "STANDARD", "Approved", "CodeRefused", "Guard", "GuardMode", "Observation"]
