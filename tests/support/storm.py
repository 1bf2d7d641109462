"""Workloads that do not take no for an answer: threads that log in over and over, and keep every session."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import psycopg

from tests.support.postgres import PATIENCE, Login

_REFUSED = ("is not permitted to log in", "no such user")  # the server's words, and a pooler's


class Storm:
    """``with Storm(logins) as storm``: a thread for each login, until it is refused for good."""

    def __init__(self, logins: Sequence[Login], connect: Callable[[Login], psycopg.Connection] | None = None):
        self._logins = logins
        self._connect = connect or Login.connect
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.sessions: list[psycopg.Connection] = []
        """Every session that any of them ever had."""
        self.refused = 0
        """How many were told that they may not log in."""

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._blow, args=(login,)) for login in self._logins]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        for session in self.sessions:
            session.close()

    def raging(self, sessions: int) -> None:
        """Wait until there are so many sessions."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.sessions) >= sessions, PATIENCE)

    def over(self) -> None:
        """Wait until each was refused: nobody is logging in any more."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def alive(self) -> int:
        """How many of all the sessions still answer."""
        return sum(answers(session) for session in self.sessions)

    def _blow(self, login: Login) -> None:
        while not self._stop.is_set():
            try:
                session = self._connect(login)
            except psycopg.OperationalError as error:
                if any(words in str(error) for words in _REFUSED):
                    with self._news:
                        self.refused += 1
                    return
                continue  # ended while it logged in: try again
            with self._news:
                self.sessions.append(session)
                self._news.notify_all()


def answers(session: psycopg.Connection) -> bool:
    """Whether a session still does anything."""
    try:
        session.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True
