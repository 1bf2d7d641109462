"""``lockstep run``: measures a child process, holds a credential for it, and ends it when trust is taken back."""
