"""Plugs for our own sockets that live in memory and pass the sockets' contract suites."""
