"""``python -m broker`` is ``lockstep-broker``."""

from broker.cli import main

main()
