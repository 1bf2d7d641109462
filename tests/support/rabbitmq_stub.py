"""As much of RabbitMQ's management API as the rabbitmq engine needs: users, and what they may in a virtual host."""

from __future__ import annotations

import base64
import threading
from typing import Any

from tests.support.https_stub import Asked, Said


class Broker:
    """`users` are passwords by name, `permissions` by (virtual host, user)."""

    def __init__(self, admin: str, password: str) -> None:
        self.users: dict[str, str] = {admin: password}
        self.permissions: dict[tuple[str, str], dict[str, Any]] = {}
        self.broken = False
        """True while deleting fails."""
        self._admin = admin
        self._lock = threading.Lock()

    def lets_in(self, user: str, password: str) -> bool:
        """Whether somebody could log in."""
        return self.users.get(user) == password

    # --- tests.support.https_stub.Play --------------------------------------------------------------

    def answer(self, asked: Asked) -> Said:
        given = asked.headers.get("Authorization", "").removeprefix("Basic ")
        user, _, password = base64.b64decode(given).decode().partition(":")
        if user != self._admin or not self.lets_in(user, password):
            return Said(401, {"error": "not_authorized", "reason": "Login failed"})
        with self._lock:
            match asked.method, asked.path:
                case "GET", ("api", "users"):
                    return Said(200, [{"name": name, "tags": []} for name in self.users])
                case "PUT", ("api", "users", name):
                    self.users[name] = asked.json()["password"]
                    return Said(201)
                case "DELETE", ("api", "users", name):
                    if self.broken:
                        return Said(503, {"error": "service_unavailable", "reason": "the node is going down"})
                    known = self.users.pop(name, None)
                    for place in [place for place in self.permissions if place[1] == name]:
                        del self.permissions[place]
                    return Said(404 if known is None else 204, None)
                case "PUT", ("api", "permissions", vhost, name):
                    self.permissions[vhost, name] = asked.json()
                    return Said(201)
        return Said(404, {"error": "Object Not Found", "reason": "Not Found"})
