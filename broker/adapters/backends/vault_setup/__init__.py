"""Setting up Vault or OpenBao for a configuration: what is needed, what is there, what mends the difference."""

from broker.adapters.backends.vault_setup.acts import Act, node_settings, plan
from broker.adapters.backends.vault_setup.acts_engines import engines, variables
from broker.adapters.backends.vault_setup.apply import Pending, State, apply, compare
from broker.adapters.backends.vault_setup.eyes import opened
from broker.adapters.backends.vault_setup.facts import Facts, Unseen
from broker.adapters.backends.vault_setup.files import files
from broker.adapters.backends.vault_setup.finding import Finding, Level
from broker.adapters.backends.vault_setup.judge import faulty, judge, worst
from broker.adapters.backends.vault_setup.look import look
from broker.adapters.backends.vault_setup.usernames import USERNAME_TEMPLATE
from broker.adapters.backends.vault_setup.wanted import Wanted

__all__ = [
    "USERNAME_TEMPLATE",
    "Act",
    "Facts",
    "Finding",
    "Level",
    "Pending",
    "State",
    "Unseen",
    "Wanted",
    "apply",
    "compare",
    "engines",
    "faulty",
    "files",
    "judge",
    "look",
    "node_settings",
    "opened",
    "plan",
    "variables",
    "worst",
]
