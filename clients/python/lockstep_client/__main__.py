"""``python -m lockstep_client`` is the command ``lockstep``."""

from lockstep_client.cli import main

if __name__ == "__main__":
    main()
