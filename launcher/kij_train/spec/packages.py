"""Packages that the image lacks, and a command that makes the pods ready."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from kij_train.redaction import USER_OF_URL
from kij_train.spec.settings import Fact, Group, Merge, Setting
from kij_train.spec.types import Model, Text

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_CREDENTIALS = re.compile(rf"://({USER_OF_URL})@")
_REFERENCES = re.compile(r"(git|\$\{\w+\}(:\$\{\w+\})?)")
"""What may stand in front of @ in a URL: the user name of ssh, and variables that pip fills in."""


def holds_credentials(text: str) -> bool:
    """Whether a URL in a text has a user name or password in it."""
    return any(not _REFERENCES.fullmatch(found) for found in _CREDENTIALS.findall(text))


def parse_package(text: str) -> Requirement:
    """A package as pip takes it, by its name. Raises ValueError, which repeats no credentials."""
    from packaging.requirements import InvalidRequirement, Requirement  # takes long to import

    if holds_credentials(text):
        raise ValueError(
            "holds credentials in a URL, which everybody could read who may read the Job. Keep "
            "them in a Secret: --env-from-secret NAME, with PIP_INDEX_URL in it"
        )
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise ValueError(
            _advice(text) or f"is no requirement: {str(error).splitlines()[0]}"
        ) from None


def _advice(text: str) -> str:
    """What to do about a line that is no requirement by its looks; else nothing."""
    if text.startswith(("-e", "--editable")):
        return (
            "is for a folder of this machine, which pods do not have. The code ships anyway: leave "
            "it out, and name folders to import from: --env PYTHONPATH=/kij/work/code/src"
        )
    if text.startswith("-"):
        return "is an option of pip. Put it into a file: --requirements FILE"
    is_path = text.startswith((".", "/", "~")) or text.endswith((".whl", ".tar.gz", ".zip"))
    if is_path and "://" not in text:
        return (
            "is a file of this machine, which pods do not have. Put wheels into a folder of "
            "the code, and write two lines in a file: --find-links FOLDER, and the name"
        )
    if "://" in text:
        return "has no name. Write NAME @ URL"
    return ""


def _package(text: str) -> str:
    parse_package(text)
    return text


class Packages(Model):
    """What is installed in every pod, before torch is imported."""

    setup: Annotated[
        str | None,
        Field(min_length=1, max_length=32_768),
        Setting(Group.DATA, "--setup COMMAND", Fact.TORCHX | Fact.NOT_IN_BENCH),
    ] = None
    """Command for sh that every pod runs once, in the folder of the code, before packages are
    installed and the script starts. Not for secrets."""
    requirements: Annotated[
        str | None,
        Field(min_length=1),
        Setting(Group.DATA, "--requirements FILE", Fact.TORCHX | Fact.NOT_IN_BENCH | Fact.PATH),
    ] = None
    """Packages that are installed before the script starts, unless the image has them:
    requirements.txt, uv.lock, pylock.toml, or pyproject.toml for its dependencies."""
    packages: Annotated[
        tuple[Annotated[Text, AfterValidator(_package)], ...],
        Setting(Group.DATA, "--with PKG", Fact.TORCHX | Fact.NOT_IN_BENCH, merge=Merge.JOIN),
    ] = ()
    """A package to install, as pip takes it: transformers==5.17. torch is replaced only if named
    so."""

    @property
    def installs(self) -> bool:
        """Whether any packages are asked for."""
        return self.requirements is not None or bool(self.packages)

    @property
    def replaces_torch(self) -> bool:
        """Whether torch itself is asked for by name."""
        if not self.packages:
            return False
        from packaging.utils import canonicalize_name

        asked = (parse_package(text).name for text in self.packages)
        return any(canonicalize_name(name) == "torch" for name in asked)
