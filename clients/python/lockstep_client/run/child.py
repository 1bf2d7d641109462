"""The child process: started from an open descriptor, signalled, waited for, ended with everything below it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence

from lockstep_client.errors import ConfigurationError
from lockstep_client.measure.process import children
from lockstep_client.run.program import Program

END_WITHIN = 10.0
"""Seconds between the polite signal and the one that cannot be refused."""


class Child:
    """One run of the program. `ended` is called once, on a thread of its own, with the exit code."""

    def __init__(
        self,
        program: Program,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        ended: Callable[[int], None],
    ) -> None:
        """Raises `ConfigurationError` where the kernel does not execute it."""
        command = [program.path, *arguments]
        # Not close_fds: every descriptor of ours is closed by exec itself, the program's own among them, but
        # not before it has been looked up. What is to be inherited has been marked.
        try:
            self._process = subprocess.Popen(
                command, executable=program.execute, env=dict(environment), close_fds=False
            )
        except OSError as error:
            raise ConfigurationError(
                f"{program.path}: cannot be executed: {error.strerror}", setting="command"
            ) from None
        self._ended = ended
        self._over = threading.Event()
        threading.Thread(target=self._wait, name="lockstep-child", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def signal(self, number: int) -> None:
        """Pass a signal on, to the child itself."""
        if not self._over.is_set():
            self._process.send_signal(number)

    def end(self) -> None:
        """SIGTERM, then SIGKILL for whatever of its tree is left after `END_WITHIN` seconds."""
        tree = (self.pid, *children(self.pid))
        self.signal(signal.SIGTERM)
        if not self._over.wait(END_WITHIN):
            tree = (*tree, *children(self.pid))
        for pid in set(tree) - ({self.pid} if self._over.is_set() else set()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._over.wait(END_WITHIN)

    def _wait(self) -> None:
        code = self._process.wait()
        self._over.set()
        # As a shell says it, so that 128 + n means a signal here too.
        self._ended(code if code >= 0 else 128 - code)
