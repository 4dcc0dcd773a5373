"""Requirements line by line, as pip reads them: https://pip.pypa.io/en/stable/reference/requirements-file-format."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kij_train.errors import RequestError
from kij_train.paths import shown as shown_path
from kij_train.pod.contract import WORK_DIR
from kij_train.spec.packages import holds_credentials, parse_package

OPTIONS = {
    "-i": 1,
    "--index-url": 1,
    "--pypi-url": 1,
    "--extra-index-url": 1,
    "--no-index": 0,
    "-f": 1,
    "--find-links": 1,
    "--no-binary": 1,
    "--only-binary": 1,
    "--prefer-binary": 0,
    "--require-hashes": 0,
    "--pre": 0,
    "--trusted-host": 1,
    "--use-feature": 1,
}
"""Options of a file that go to the pods, and how many values they take."""
FILES = {"-r": False, "--requirement": False, "-c": True, "--constraint": True}
"""Those that name another file, and whether that is one of constraints."""
_COMMENT = re.compile(r"(^|\s+)#.*$")
_PINNED = re.compile(r"[A-Za-z0-9._-]+(\[[^]]*\])?\s*==\s*[^*\s;]+\s*(;|$)")
_HASHES = re.compile(r"\s+--hash[= ]\S+")
MOST_BYTES = 1 << 20


def text_of(path: Path, shown: str) -> str:
    """A file of requirements. Raises RequestError."""
    named = f"--requirements {shown}"
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES * 16 + 1)
        if len(content) > MOST_BYTES * 16:
            raise RequestError(f"{named}: is larger than 16 MiB, which no list of packages is")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise RequestError(f"{named}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RequestError(f"{named}: is no text in UTF-8") from None
    except ValueError:
        raise RequestError(f"{named}: holds a NUL byte, which no path can") from None


@dataclass
class Lines:
    """What several files say together."""

    code_dir: Path
    ships: bool
    packages: list[str] = field(default_factory=list)
    """Each with its hashes."""
    options: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    _reading: list[Path] = field(default_factory=list)

    @property
    def locked(self) -> bool:
        """Whether all is pinned to one version and to hashes, so that nothing can be missing."""
        return bool(self.packages) and all(
            "--hash" in line and _PINNED.match(_HASHES.sub("", line)) for line in self.packages
        )

    def text(self, *, hashes: bool) -> str:
        """As a file, with or without the hashes."""
        lines = self.packages if hashes else [_HASHES.sub("", line) for line in self.packages]
        options = (line for line in self.options if hashes or line != "--require-hashes")
        return "".join(f"{line}\n" for line in dict.fromkeys([*options, *lines]))

    def read_file(self, path: Path, shown: str, *, constraints: bool = False) -> None:
        """Take in a file, and those that it names. Raises RequestError."""
        self._reading.append(path.resolve())
        for number, line in _logical(text_of(path, shown)):
            place = f"{shown}:{number}"
            if line.startswith("-"):
                self._option(line, place, path, shown, constraints=constraints)
            elif constraints:
                self._constraint(line, place)
            else:
                self.add(line, place)
        self._reading.pop()

    def add(self, line: str, place: str) -> None:
        """Take in a package, with its hashes. Raises RequestError."""
        package, dashes, rest = re.sub(r"\s+", " ", line.strip()).partition(" --")
        try:
            parse_package(package)
        except ValueError as error:
            said = "" if holds_credentials(package) else f"{shown_path(package)} "
            raise RequestError(f"{place}: {said}{error}") from None
        self.packages.append(package + dashes + rest)

    def _constraint(self, line: str, place: str) -> None:
        kept = len(self.packages)
        self.add(line, place)
        self.constraints += [_HASHES.sub("", line) for line in self.packages[kept:]]
        del self.packages[kept:]

    def _option(self, line: str, place: str, path: Path, shown: str, *, constraints: bool) -> None:
        name, value = _split(line, place)
        if name in FILES:
            if "://" in value:
                raise RequestError(
                    f"{place}: {name} names a URL", hints=("download it, and name the file",)
                )
            if (path.parent / value).resolve() in self._reading:
                raise RequestError(f"{place}: {name} {value} leads back to a file that is read")
            other = os.path.join(os.path.dirname(shown), value)  # noqa: PTH118, PTH120 - as shown
            self.read_file(path.parent / value, other, constraints=constraints or FILES[name])
            return
        if name in ("-e", "--editable"):
            try:
                parse_package(line)
            except ValueError as error:
                raise RequestError(f"{place}: {line} {error}") from None
        if name not in OPTIONS:
            raise RequestError(
                f"{place}: {name} is no option of a file that goes to pods",
                hints=(f"those are {', '.join(sorted(OPTIONS))}",),
            )
        if bool(value) != bool(OPTIONS[name]):
            raise RequestError(
                f"{place}: {name} {'lacks its value' if not value else 'takes none'}"
            )
        if holds_credentials(value):
            raise RequestError(
                f"{place}: the URL of {name} holds credentials, which everybody could read who may "
                "read the ConfigMaps of the namespace",
                hints=(
                    "keep it in a Secret, and leave the line out: kubectl create secret generic "
                    "index --from-literal PIP_INDEX_URL=… , and --env-from-secret index",
                    "or name variables of a Secret: https://${INDEX_USER}:${INDEX_TOKEN}@HOST/",
                ),
            )
        if name in ("-f", "--find-links") and "://" not in value:
            value = self._folder(path.parent / value, value, place)
        self.options.append(f"{name} {value}".strip())

    def _folder(self, folder: Path, value: str, place: str) -> str:
        """A folder of wheels as the pods have it: in the code, or on a volume."""
        if Path(value).is_absolute() and not folder.is_relative_to(self.code_dir.resolve()):
            return value
        try:
            inside = folder.resolve().relative_to(self.code_dir.resolve())
        except ValueError:
            raise RequestError(
                f"{place}: --find-links {value} is outside of the code, and pods do not have it",
                hints=("put the wheels into a folder of the code, or onto a volume: --mount",),
            ) from None
        return f"{WORK_DIR}/code/{inside.as_posix()}" if self.ships else str(folder.resolve())


def _logical(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, with those that a backslash continues; the number of each."""
    held, first = "", 0
    for number, row in enumerate(text.splitlines(), start=1):
        first = first if held else number
        if row.endswith("\\") and not row.lstrip().startswith("#"):
            held += row[:-1] + " "
            continue
        line = _COMMENT.sub("", held + row).strip()
        held = ""
        if line:
            yield first, line
    if held.strip():
        yield first, _COMMENT.sub("", held).strip()


def _split(line: str, place: str) -> tuple[str, str]:
    """An option and its value."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise RequestError(f"{place}: not as a shell reads words: {error}") from None
    name, equals, value = words[0].partition("=")
    if not equals and re.match(r"-[a-z].", name):  # as in -rother.txt
        name, value = name[:2], name[2:]
    return name, " ".join([*([value] if value else []), *words[1:]])
