"""Kubeconfig files, read as kubectl reads them: kubernetes.io/docs/concepts/configuration.

Several files that KUBECONFIG lists are taken together: of two that name the same thing, the first
wins, and a path stands relative to the file that names it. Only what the chosen context needs is
looked at closely. No message holds a value that may be secret.
"""

from __future__ import annotations

import base64
import binascii
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kij_train.commands import Address
from kij_train.errors import UnreachableError
from kij_train.names import check_namespace, check_text

LISTS = {"clusters": "cluster", "users": "user", "contexts": "context"}
"""Key of a list → the key that holds what an entry says."""
_TYPES = {dict: "a mapping", list: "a list", str: "text", bool: "a yes or no", type(None): "empty"}


class KubeconfigError(UnreachableError):
    """A kubeconfig cannot be read, or does not say what is needed."""


@dataclass(frozen=True)
class Section:
    """A mapping of a kubeconfig, and where it stands."""

    value: Mapping[str, Any] = field(repr=False)
    file: Path
    where: str
    """Such as "user ada"; empty for the whole file."""

    def text(self, key: str) -> str:
        """Empty where there is none."""
        found = self.value.get(key)
        if found is None:
            return ""
        if not isinstance(found, str):
            raise self.wrong(key, f"must be text, and is {_type_of(found)}: put it into quotes")
        try:
            return check_text(found)
        except ValueError as error:
            raise self.wrong(key, str(error)) from None

    def flag(self, key: str) -> bool:
        found = self.value.get(key)
        if found is not None and not isinstance(found, bool):
            raise self.wrong(key, f"must be true or false, and is {_type_of(found)}")
        return bool(found)

    def section(self, key: str, where: str = "") -> Section | None:
        """The mapping under a key; None where it is missing or empty."""
        found = self.value.get(key)
        if found is None:
            return None
        if not isinstance(found, dict):
            raise self.wrong(key, f"must be a mapping, and is {_type_of(found)}")
        return Section(found, self.file, where or f"{self.where}, {key}".removeprefix(", "))

    def texts(self, key: str) -> list[str]:
        found = self._list(key)
        if not all(isinstance(one, str) for one in found):
            raise self.wrong(key, "must be a list of texts: put each into quotes")
        try:
            return [check_text(one) for one in found]
        except ValueError as error:
            raise self.wrong(key, f"has a text that {error}") from None

    def sections(self, key: str) -> Iterator[Section]:
        """The mappings of a list."""
        for number, one in enumerate(self._list(key), 1):
            where = f"{self.where}, {key}, entry {number}".removeprefix(", ")
            if not isinstance(one, dict):
                wrong = f"entry {number} must be a mapping, and is {_type_of(one)}"
                raise self.wrong(key, wrong)
            yield Section(one, self.file, where)

    def path(self, key: str) -> Path | None:
        """A path, from the folder of the file that names it."""
        found = self.text(key)
        return self.file.parent / found if found else None

    def content(self, key: str) -> bytes | None:
        """What `KEY-data` holds in base64, else the file that `KEY` names."""
        data, path = self.text(f"{key}-data"), self.path(key)
        if data:
            try:
                return base64.b64decode("".join(data.split()), validate=True)
            except (binascii.Error, ValueError):
                raise self.wrong(f"{key}-data", "is not base64") from None
        if path is None:
            return None
        try:
            return path.read_bytes()
        except OSError as error:
            raise self.wrong(key, f"names {path}, which cannot be read: {error.strerror}") from None

    def wrong(self, key: str, what: str) -> KubeconfigError:
        """The error for a key."""
        place = f"{self.where}: {key}" if self.where else key
        return KubeconfigError(f"kubeconfig {self.file}: {place} {what}", hints=mending(self.file))

    def _list(self, key: str) -> list[Any]:
        found = self.value.get(key)
        if found is None:
            return []
        if not isinstance(found, list):
            raise self.wrong(key, f"must be a list, and is {_type_of(found)}")
        return found


def _type_of(value: object) -> str:
    return _TYPES.get(type(value), "a number or a date")


def address_of(path: str, context: str | None = None) -> Address:
    """How kubectl is told of a kubeconfig, unless it reads it without being told."""
    usual = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    return Address.of(None if path == usual else path, context)


def mending(file: Path) -> tuple[str, ...]:
    """What to do with a file that is not right."""
    return (
        f"see what kubectl makes of it: kubectl config view --kubeconfig {shlex.quote(str(file))}",
        "or name another: --kubeconfig FILE, or --context NAME",
    )


@dataclass(frozen=True)
class Chosen:
    """What a kubeconfig says of one context."""

    path: str
    """As it was named: files with ":" between."""
    context: str
    namespace: str
    cluster: str
    settings: Section
    """Of the cluster."""
    user: str
    """Empty where the context names none."""
    credentials: Section | None
    """Of the user; None where it has none."""


def read(path: str, context: str | None) -> Chosen:
    """A context, the current one if None. Raises KubeconfigError."""
    files = [_parsed(Path(one).expanduser()) for one in path.split(os.pathsep) if _there(one)]
    current = next((name for one in files if (name := one.text("current-context"))), "")
    named = {kind: _merged(files, kind) for kind in LISTS}
    name = context or current
    found = named["contexts"].get(name)
    if found is None:
        raise _no_context(path, context, current, sorted(named["contexts"]))
    cluster, user = found.text("cluster"), found.text("user")
    settings = named["clusters"].get(cluster)
    if settings is None:
        raise _missing(path, name, "cluster", cluster, sorted(named["clusters"]))
    if user and user not in named["users"]:
        raise _missing(path, name, "user", user, sorted(named["users"]))
    credentials = named["users"].get(user)
    namespace = found.text("namespace") or "default"
    try:
        check_namespace(namespace)
    except ValueError as error:
        raise found.wrong(f"namespace {namespace!r}", str(error)) from None
    return Chosen(path, name, namespace, cluster, settings, user, credentials)


def _there(path: str) -> bool:
    """Whether a path of the list is to be read: one of several may be missing, as for kubectl."""
    return bool(path) and Path(path).expanduser().exists()


def _parsed(file: Path) -> Section:
    """One file. Raises KubeconfigError."""
    if file.is_dir():
        raise KubeconfigError(
            f"kubeconfig {file} is a folder",
            hints=(f"name the file in it: export KUBECONFIG={shlex.quote(str(file / 'config'))}",),
        )
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise KubeconfigError(
            f"kubeconfig {file} cannot be read: {error.strerror}",
            hints=(f"see whose it is: ls -l {shlex.quote(str(file))}", "or --kubeconfig FILE"),
        ) from None
    except yaml.MarkedYAMLError as error:
        # Not in the parser's words: they quote the line, which may be the token's.
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise KubeconfigError(f"kubeconfig {file} is no YAML{place}", hints=mending(file)) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise KubeconfigError(f"kubeconfig {file} is no YAML", hints=mending(file)) from None
    if document is None:
        document = {}  # an empty file says nothing, which kubectl takes
    if not isinstance(document, dict):
        raise KubeconfigError(
            f"kubeconfig {file} must be a mapping, and is {_type_of(document)}",
            hints=mending(file),
        )
    return Section(document, file.absolute(), "")


def _merged(files: list[Section], kind: str) -> dict[str, Section]:
    """Name → entry of clusters, users or contexts, of the first file that has the name."""
    merged: dict[str, Section] = {}
    for file in files:
        here: set[str] = set()
        for entry in file.sections(kind):
            name = entry.text("name")
            if not name:
                raise entry.wrong("name", "is missing")
            if name in here:
                raise file.wrong(kind, f"holds the name {name} twice")
            here.add(name)
            inner = LISTS[kind]
            found = entry.section(inner, f"{inner} {name}")
            merged.setdefault(name, found or Section({}, file.file, f"{inner} {name}"))
    return merged


def _no_context(path: str, asked: str | None, current: str, known: list[str]) -> KubeconfigError:
    if not known:
        return KubeconfigError(
            f"kubeconfig {path} has no contexts",
            hints=(
                "name another: --kubeconfig FILE, or get one from your cluster's admin",
                "train on this machine instead: kij-train launch --local",
            ),
        )
    if asked is not None:
        words = f"--context {asked}: kubeconfig {path} has no such context"
    elif current:
        words = f"kubeconfig {path}: its current-context {current} is none of its contexts"
    else:
        words = f"kubeconfig {path} has no current-context"
    use = address_of(path).kubectl_of_cluster("config", "use-context", known[0])
    choose = f"choose one: {use}, or --context NAME"
    return KubeconfigError(words, hints=(f"it has: {', '.join(known)}", choose))


def _missing(path: str, context: str, kind: str, name: str, known: list[str]) -> KubeconfigError:
    names = f"{kind} {name}, which it has not" if name else f"no {kind}"
    listed = f"its {kind}s: {', '.join(known)}" if known else f"it has no {kind}s at all"
    words = ("config", "set-context", context, f"--{kind}=NAME")
    flag = address_of(path).kubectl_of_cluster(*words)
    return KubeconfigError(
        f"kubeconfig {path}: context {context} names {names}",
        hints=(listed, f"mend it: {flag}", "or name another: --context NAME"),
    )
