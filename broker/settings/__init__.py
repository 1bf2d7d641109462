"""Configuration: TOML and environment, held to a schema and cross-checked, as frozen values; read nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from broker.model.role import RoleBook
from broker.settings import understand
from broker.settings.book import Tables, book
from broker.settings.checks import check
from broker.settings.problems import ConfigurationRefused, Problem
from broker.settings.server import Server
from broker.settings.server_checks import check_server
from broker.settings.source import read

__all__ = ["ConfigurationRefused", "Outline", "Problem", "Settings", "load", "outline"]


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration that holds. `tables` has the plugs' own keys, `book` what verbs and doors read."""

    file: Path
    server: Server
    tables: Tables
    book: RoleBook


@dataclass(frozen=True, slots=True)
class Outline:
    """What a configuration says, before anything that it names is looked at."""

    server: Server
    tables: Tables


def outline(file: Path, environment: Mapping[str, str]) -> Outline:
    """Read and understand only: for setting up what the files that it names come from.

    Raises `ConfigurationRefused` with every problem of the text itself.
    """
    source = read(file.absolute(), environment)
    server = None if source.problems else understand.server(source)
    tables = Tables() if source.problems else understand.tables(source)
    if source.problems or server is None:
        raise ConfigurationRefused(source.problems)
    return Outline(server, tables)


def load(file: Path, environment: Mapping[str, str]) -> Settings:
    """Read, understand and check a configuration.

    `environment` is the process's: its ``LOCKSTEP_`` variables override the file.
    Raises `ConfigurationRefused` with every problem that was found.
    """
    source = read(file.absolute(), environment)
    if source.problems:
        # A file that could not be read says nothing of what it lacks.
        raise ConfigurationRefused(source.problems)
    server = understand.server(source)
    tables = understand.tables(source)
    check(source, server, tables)
    if server is not None:
        check_server(source, server, tables)
    if source.problems or server is None:
        raise ConfigurationRefused(source.problems)
    return Settings(source.file, server, tables, book(tables))
