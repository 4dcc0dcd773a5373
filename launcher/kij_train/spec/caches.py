"""Where what pods get is kept for the next job: --cache."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

from kij_train import names
from kij_train.pod import contract
from kij_train.spec.settings import Fact, Group, Setting
from kij_train.spec.types import RESERVED_PATHS, Model

_FORMS = "must be pvc:NAME, pvc:NAME:/FOLDER, or the /PATH of a --mount"


def _check_cache(text: str) -> str:
    """The text with a path in normal form. Raises ValueError."""
    claim, path = _parts(text)
    if claim is not None:
        names.check_object_name(claim)
    if path is None:
        return text
    folder = PurePosixPath(path)
    if not path.startswith("/") or ".." in folder.parts or ":" in path:
        raise ValueError(_FORMS)
    if claim is None:
        if folder == PurePosixPath("/"):
            raise ValueError("cannot be /: name a folder of its own")
        if any(folder.is_relative_to(taken) for taken in RESERVED_PATHS):
            raise ValueError(f"{path} is used by kij-train itself")
    return f"pvc:{claim}:{folder}" if claim is not None else str(folder)


def _parts(text: str) -> tuple[str | None, str | None]:
    """Claim and path."""
    if not text.startswith("pvc:"):
        return None, text
    claim, colon, path = text[len("pvc:") :].partition(":")
    return claim, path if colon else None


class Caches(Model):
    """What is kept between jobs."""

    cache: Annotated[
        Annotated[str, AfterValidator(_check_cache)] | None,
        Setting(Group.DATA, "--cache pvc:NAME[:/FOLDER]|/PATH", Fact.TORCHX | Fact.NOT_IN_BENCH),
    ] = None
    """Volume that jobs share: what --fetch and packages bring is looked for there first, and kept
    there for the next job. A claim, or the path of a --mount; with --local, a folder of this
    machine."""

    @property
    def cache_claim(self) -> str | None:
        """The claim that is mounted for it; None for a path that is there already."""
        return _parts(self.cache or "/")[0]

    @property
    def cache_dir(self) -> str | None:
        """The folder as pods see it; None without one."""
        if self.cache is None:
            return None
        claim, path = _parts(self.cache)
        return path if claim is None else contract.CACHE_DIR + (path or "")
