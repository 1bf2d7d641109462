"""A real broker for the tests of your own code, in a folder that goes away.

``with broker() as b: lockstep_client.connect(settings=b.settings)``; with pytest:
``pytest_plugins = ["lockstep_client.testing.plugin"]`` and the fixture `lockstep_broker`.
"""

from lockstep_client.testing.broker import DevBroker, broker
from lockstep_client.testing.trouble import Trouble
from lockstep_client.testing.until import until

__all__ = ["DevBroker", "Trouble", "broker", "until"]
