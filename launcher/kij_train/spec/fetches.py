"""What every pod gets before its work begins: --fetch."""

from __future__ import annotations

import re
import urllib.parse
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import BeforeValidator, model_validator

from kij_train import names
from kij_train.pod.spread.urls import authorization_name, file_name
from kij_train.redaction import CREDENTIAL_PARAMETER, USER_OF_URL
from kij_train.spec.settings import Fact, Group, Merge, Setting
from kij_train.spec.types import RESERVED_PATHS, Model, SpecConflict

FORMS = (
    "https://HOST/FILE[#sha256=HEX]:/FOLDER, pvc:CLAIM:/PATH:/FOLDER, /PATH:/FOLDER, or a URL of "
    "fsspec, such as s3://BUCKET/PATH:/FOLDER"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Fetch(Model):
    """A source and the folder that it gets into."""

    source: str
    """URL, absolute path in the pod, or path in the claim."""
    to: str
    """Folder in the pod, an absolute path. A file keeps its name in it."""
    claim: str | None = None
    """Claim that has the source."""
    sha256: str | None = None
    """Of a file, as lower-case hexadecimal digits."""

    @model_validator(mode="after")
    def _can_be_fetched(self) -> Fetch:
        target = PurePosixPath(self.to)
        if not self.to.startswith("/") or ".." in target.parts or ":" in self.to:
            raise ValueError(f"{self.to!r} must be an absolute path in the container")
        if target == PurePosixPath("/"):
            raise ValueError("cannot fetch to /: name a folder, such as /data")
        for taken in RESERVED_PATHS:
            if target.is_relative_to(taken) or PurePosixPath(taken).is_relative_to(target):
                raise ValueError(f"{self.to} is used by kij-train itself")
        if self.claim is not None:
            names.check_object_name(self.claim)
        if self.sha256 is not None and re.fullmatch(r"[0-9a-f]{64}", self.sha256) is None:
            raise ValueError("sha256 must have 64 hexadecimal digits")
        if self.source.startswith("/"):
            if ".." in PurePosixPath(self.source).parts:
                raise ValueError(f"{self.source!r} must be an absolute path without '..'")
        elif _SCHEME.match(self.source) is None or self.claim is not None:
            raise ValueError(f"must be one of: {FORMS}")
        else:
            _check_url(self.source)
        return self

    def __str__(self) -> str:
        """As --fetch has it."""
        claim = f"pvc:{self.claim}:" if self.claim else ""
        checked = f"#sha256={self.sha256}" if self.sha256 else ""
        return f"{claim}{self.source}{checked}:{self.to}"


def _check_url(url: str) -> None:
    """Raises ValueError, which never quotes a URL that may hold a credential."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    web = parts.scheme.lower() in ("http", "https")
    variable = authorization_name(parts.hostname or "HOST")
    how = (
        f"Put it into a Secret as {variable}, the header Authorization for {host}, and name that: "
        "--env-from-secret NAME"
        if web
        else "Put it into a Secret, as variables that the library of fsspec reads, and name that: "
        "--env-from-secret NAME"
    )
    if "@" in parts.netloc or re.search(f"://{USER_OF_URL}@", url):
        raise ValueError(f"the URL has a user or password, which the Job would show. {how}")
    for name, _ in urllib.parse.parse_qsl(parts.query, keep_blank_values=True):
        if re.fullmatch(CREDENTIAL_PARAMETER, name):
            raise ValueError(f"the URL has a credential, {name}=…, which the Job would show. {how}")
    if parts.scheme in ("file", "local"):
        raise ValueError("write a path of the pod without scheme: /PATH:/FOLDER")
    if not web:
        return
    if not parts.hostname:
        raise ValueError("the URL names no host")
    if re.fullmatch(r"(\[.*\]|[^:]*)(:\d*)?", host) is None:
        raise ValueError("the port of the URL is no number")
    if file_name(url) in ("", ".", "..") or "/" in file_name(url):
        raise ValueError("the URL names no file: its path ends with /")


def parse_fetch(value: object) -> object:
    """`SOURCE[#sha256=HEX]:/FOLDER` to the keys of a Fetch. Raises ValueError."""
    if not isinstance(value, str):
        return value
    source, colon, rest = value.rpartition(":/")
    if not colon or not source or rest.startswith("/"):
        raise ValueError(f"needs a folder to fetch to, an absolute path behind ':'. {FORMS}")
    fields: dict[str, object] = {"to": f"/{rest.rstrip('/')}"}
    before, hashed, after = source.partition("#")
    if hashed:
        name, _, digest = after.partition("=")
        if name != "sha256":
            raise ValueError("what follows # must be sha256=HEX, the hash of the file")
        source, fields["sha256"] = before, digest.lower()
    if source.startswith("pvc:"):
        claim, colon, path = source[len("pvc:") :].partition(":")
        if not colon or not path.startswith("/"):
            raise ValueError("must look like pvc:CLAIM:/PATH:/FOLDER")
        fields["claim"], source = claim, path
    return {**fields, "source": source}


ParsedFetch = Annotated[Fetch, BeforeValidator(parse_fetch, json_schema_input_type=str | Fetch)]


class Fetches(Model):
    """What every pod gets from elsewhere, read once and handed on from pod to pod."""

    fetch: Annotated[
        tuple[ParsedFetch, ...],
        Setting(
            Group.DATA,
            "--fetch SOURCE:/FOLDER",
            Fact.TORCHX | Fact.NOT_IN_BENCH,
            merge=Merge.JOIN,
        ),
    ] = ()
    """What every pod gets before its work begins, read once for all of them: a file by https
    (#sha256=HEX behind it is checked), a file or folder of a claim (pvc:CLAIM:/PATH) or of the pod
    (/PATH), or a URL of fsspec. It gets into /FOLDER, a file under its name."""

    @property
    def fetch_folders(self) -> tuple[str, ...]:
        """Where it gets, each folder once."""
        return tuple(dict.fromkeys(one.to for one in self.fetch))

    @model_validator(mode="after")
    def _fetches_apart(self) -> Fetches:
        for one in self.fetch_folders:
            for other in self.fetch_folders:
                if one != other and PurePosixPath(one).is_relative_to(other):
                    raise SpecConflict("fetch", f"{one} lies in {other}: choose folders apart")
        return self
