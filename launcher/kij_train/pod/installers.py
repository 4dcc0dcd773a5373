"""uv and pip: what is missing in the image, and installing that into a folder.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from kij_train.pod import contract
from kij_train.pod.contract import Failure
from kij_train.pod.status import PackagesFault, still_installing

STILL_S = 30.0
MOST_TOLD = 500
"""Characters of a failure that come from an installer."""
MOST_SHOWN = 20
"""Lines of an installer that are passed on when it fails."""
CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
SAME_SETTINGS = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_NO_INDEX": "UV_NO_INDEX",
    "PIP_TRUSTED_HOST": "UV_INSECURE_HOST",
    "PIP_CERT": "SSL_CERT_FILE",
}
"""What users set for one of them, by its name for the other."""
ELSEWHERE = ("TARGET", "USER", "PREFIX", "ROOT", "REQUIRE_VIRTUALENV", "NO_DEPS", "DRY_RUN")
"""Settings of pip that images have, and that would lead it elsewhere."""
UNFIT = {*(f"PIP_{each}" for each in ELSEWHERE), "UV_NO_CACHE"}
OF_TORCH = re.compile(r"torch|triton|pytorch-triton.*|nvidia-.*")
"""Packages that go with torch: whoever chose the image chose them."""
Say = Callable[[str], None]

FAULTS: Tuple[Tuple[str, str], ...] = (
    (r"No space left on device|Disk quota exceeded", "full"),
    (r"DO NOT MATCH THE HASHES|Hash mismatch|Hashes are required", "hash"),
    (r"\b429\b.*(Too Many|Client Error)|Too Many Requests|HTTP error 429", "throttled"),
    (
        r"\b40[13] (Client Error|Unauthorized|Forbidden)|HTTP error 40[13]|\b40[13] Error"
        r"|\((401 Unauthorized|403 Forbidden)\)|lack of valid authentication",
        "refused",
    ),
    (
        r"Failed to establish a new connection|connection broken by|Temporary failure in name res"
        r"|error sending request|dns error|Could not connect|Connection refused|Read timed out"
        r"|Max retries exceeded|operation timed out|Network is unreachable",
        "unreachable",
    ),
    (r"is not a trusted or secure host", "insecure"),
    (
        r"different python version|Requires-Python|requires a different Python|requires Python"
        r"|current Python version|has no wheels with a matching|is not a supported wheel"
        r"|doesn't have a source distribution or wheel",
        "no-match",
    ),
    (r"No matching distribution found|was not found in the|no version of", "not-found"),
    (r"ResolutionImpossible|conflicting dependencies|unsatisfiable", "conflict"),
)
"""What an installer's words mean; the first that fits counts. pip 20 to 26, uv 0.4 to 0.13."""
PASSES = ("full", "throttled", "unreachable", "failed")
"""Kinds of fault after which another pod may do better."""


def canonical(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def fault(kind: str, about: str) -> Failure:
    """The failure of one of the kinds of PackagesFault."""
    code = contract.EXIT_ORIGIN if kind in PASSES else contract.EXIT_PREPARE
    return Failure(code, PackagesFault(kind, about).text())


def fault_of(output: str, constraints: str = "") -> Failure:
    """What an installer's output says, in one line: the kind, and the line that tells it.

    `constraints` are those that it was given; among them may be those that keep the image's torch.
    """
    lines = [CREDENTIALS.sub("***@", line).strip() for line in output.splitlines()]
    lines = [line for line in lines if line]
    for pattern, kind in FAULTS:
        line = next((line for line in reversed(lines) if re.search(pattern, line)), None)
        if line is None:
            continue
        told = _TOLD.get(kind, _plain)(line, lines)
        if told is None:
            continue
        pins = [line for line in constraints.splitlines() if OF_TORCH.match(canonical(line))]
        if kind == "conflict" and any(pin in output for pin in pins):
            kind = "torch"
        return fault(kind, told[:MOST_TOLD])
    return fault("failed", _plain(lines[-1], lines)[:MOST_TOLD] if lines else "it said nothing")


def _plain(line: str, lines: List[str]) -> str:
    """A line without the words that every one has."""
    del lines
    said = re.sub(r"^((ERROR|WARNING|error|cause|Caused by):?\s*)+", "", line)
    said = re.sub(r"^(Because|And because) |, we can conclude that .*", "", said)
    return re.sub(r"^No matching distribution found for ", "", said)


def _hash(line: str, lines: List[str]) -> str:
    """The package, which pip names in the next line."""
    if "DO NOT MATCH" in line:
        line = next(iter(lines[lines.index(line) + 1 :]), line)
    return re.sub(r" \(from -r .*", "", _plain(line, lines))


def _not_found(line: str, lines: List[str]) -> str:
    """The package, and the newest versions that there are."""
    there = next((m[1] for m in map(re.compile(r"from versions: (.*)\)").search, lines) if m), "")
    newest = ", ".join(there.split(", ")[-3:])
    return _plain(line, lines) + (
        f" (there are: …, {newest})" if newest not in ("", "none") else ""
    )


def _other_python(line: str, lines: List[str]) -> Optional[str]:
    """The package and what it needs; None where pip only says what else it has passed over."""
    passed_over = re.search(r"different python version: (.*)", line)
    if passed_over is None:
        return _plain(line, lines)
    wanted = next((m[1] for m in map(_WANTED.search, lines) if m), "")
    for one in passed_over[1].split("; "):
        version, _, needs = one.partition(" ")
        if wanted.endswith(f"=={version}"):
            return f"{wanted} has {needs}"
    return None


_WANTED = re.compile(r"No matching distribution found for (\S+)")


def _insecure(line: str, lines: List[str]) -> str:
    """The host."""
    del lines
    found = re.search(r"repository located at (\S+)", line)
    return found[1] if found else _plain(line, [])


def _unreachable(line: str, lines: List[str]) -> str:
    """What the system said, and of whom."""
    del lines
    said = re.search(r"\[Errno -?\d+\] ([^'\")]+)|(Read timed out|dns error[^')]*)", line)
    where = re.search(r"(?:https?://|host=')([^/'\s`]+)|: (/\S+)$", line)
    words = (said[1] or said[2]) if said else _plain(line, [])
    return f"{where[1] or where[2]}: {words}" if where else words


def _conflict(line: str, lines: List[str]) -> str:
    """Who asks for what; pip says it in some lines of their own."""
    if "The conflict is caused by:" in lines:
        said = lines[lines.index("The conflict is caused by:") + 1 :]
        end = next((n for n, each in enumerate(said) if each.startswith("To fix this")), len(said))
        return "; ".join(said[:end])
    return _plain(line, lines)


_TOLD: Dict[str, Callable[[str, List[str]], Optional[str]]] = {
    "hash": _hash,
    "not-found": _not_found,
    "no-match": _other_python,
    "insecure": _insecure,
    "unreachable": _unreachable,
    "conflict": _conflict,
}


class Installer:
    """uv or pip."""

    def __init__(self, program: List[str], environ: Dict[str, str], scratch: str, say: Say) -> None:
        self._program, self._environ, self._scratch, self._say = program, environ, scratch, say
        self._said = ""
        """Its last output."""

    def missing(self, text: str, constraints: str, locked: bool) -> List[str]:
        """What has to be installed, a line each. Raises Failure."""
        raise NotImplementedError

    def install(self, lines: List[str], folder: str) -> None:
        """Install exactly that into a folder. Raises Failure."""
        raise NotImplementedError

    def _file(self, name: str, text: str) -> str:
        path = os.path.join(self._scratch, name)
        Path(path).write_text(text, encoding="utf-8")
        return path

    def _run(self, *arguments: str, constraints: str = "", quiet: bool = False) -> str:
        """Its output; when it fails, the end goes to the log, unless `quiet`. Raises Failure."""
        started, pause_s = time.monotonic(), STILL_S
        # In a folder without modules, which `-m` would find before those of pip.
        with subprocess.Popen(
            [*self._program, *arguments],
            cwd=self._scratch,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            while True:
                try:
                    output = process.communicate(timeout=pause_s)[0].decode("utf-8", "replace")
                    break
                except subprocess.TimeoutExpired:
                    self._say(still_installing(time.monotonic() - started))
        self._said = output
        if process.returncode:
            lines = [line.rstrip() for line in output.splitlines() if line.strip()]
            for line in () if quiet else lines[-MOST_SHOWN:]:
                if not line.startswith("Looking in "):  # addresses are nobody's business
                    self._say(CREDENTIALS.sub("***@", line))
            raise fault_of(output, constraints)
        return output


class Pip(Installer):
    """pip 22.2 or later, which first had --report.

    Where an index has no metadata beside its files, pip reads whole files to resolve. With a cache,
    whatever an image says of it, the second step reads none of them again.
    """

    def missing(self, text: str, constraints: str, locked: bool) -> List[str]:
        report = os.path.join(self._scratch, "report.json")
        arguments = (
            *("install", "--progress-bar", "off", "--dry-run", "--report", report),
            *("--cache-dir", self._environ["PIP_CACHE_DIR"]),
            *("-r", self._file("requirements.txt", text)),
            *(("-c", self._file("constraints.txt", constraints)) if constraints else ()),
            *(("--no-deps",) if locked else ()),
        )
        try:
            self._run(*arguments, constraints=constraints)
        except Failure as failure:
            raise self._refused(arguments) or failure from None
        found = json.loads(Path(report).read_text(encoding="utf-8"))["install"]
        hashes = [_hash_of(one) for one in found]
        return [
            _line_of(one) + (f" --hash={digest}" if all(hashes) else "")
            for one, digest in zip(found, hashes)
        ]

    def _refused(self, arguments: Sequence[str]) -> Optional[Failure]:
        """What an index answered in place of its list; pip tells it only when asked for all."""
        if "from versions: none" not in self._said:
            return None
        with contextlib.suppress(Failure):
            self._run("-vv", *arguments, quiet=True)
        told = [line for line in self._said.splitlines() if "Could not fetch URL" in line]
        fetched = [line for line in told if "404 Client Error" not in line]
        return fault_of("\n".join(fetched)) if fetched else None

    def install(self, lines: List[str], folder: str) -> None:
        named = self._file("missing.txt", "\n".join(lines) + "\n")
        self._run(
            *("install", "--quiet", "--no-deps", "--no-compile", "--no-warn-script-location"),
            *("--cache-dir", self._environ["PIP_CACHE_DIR"]),
            *("--target", folder, "-r", named),
        )


def _hash_of(item: Dict[str, "Dict[str, object]"]) -> str:
    """sha256:… of an entry of pip's report; empty where it has none."""
    archive = item["download_info"].get("archive_info") or {}
    assert isinstance(archive, dict)
    return str(archive.get("hash") or "").replace("=", ":", 1)


def _line_of(item: Dict[str, "Dict[str, object]"]) -> str:
    """An entry of pip's report as a requirement."""
    about, info = item["metadata"], item["download_info"]
    if not item.get("is_direct"):
        return f"{about['name']}=={about['version']}"
    vcs = info.get("vcs_info")
    if isinstance(vcs, dict):
        return f"{about['name']} @ {vcs['vcs']}+{info['url']}@{vcs['commit_id']}"
    return f"{about['name']} @ {info['url']}"


class Uv(Installer):
    """uv, which says what it would install in lines like " + name==version"."""

    def missing(self, text: str, constraints: str, locked: bool) -> List[str]:
        said = self._run(
            *("pip", "install", "--dry-run", "--color", "never", "--python", sys.executable),
            *("--break-system-packages", "-r", self._file("requirements.txt", text)),
            *(("-c", self._file("constraints.txt", constraints)) if constraints else ()),
            *(("--no-deps",) if locked else ()),
            constraints=constraints,
        )
        found = re.findall(r"^ \+ (\S+?)==(\S+)(?: \(from (.*)\))?$", said, re.MULTILINE)
        if locked:  # with their hashes
            names = {canonical(name) for name, _, _ in found}
            return [line for line in text.splitlines() if _name_of(line) in names]
        return [f"{n} @ {url}" if url else f"{n}=={version}" for n, version, url in found]

    def install(self, lines: List[str], folder: str) -> None:
        self._run(
            *("pip", "install", "--quiet", "--no-deps", "--python", sys.executable),
            *("--target", folder, "-r", self._file("missing.txt", "\n".join(lines) + "\n")),
        )


def _name_of(line: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", line)
    return canonical(match[0]) if match and not line.startswith("-") else ""


def find(environ: Dict[str, str], scratch: str, say: Say) -> Installer:
    """The installer of this Python: uv, or pip where there is no uv, or settings for pip alone.

    The settings of one of them are the other's too, where that is the only one. Raises Failure.
    """
    uv = shutil.which("uv", path=environ.get("PATH"))
    program = [uv] if uv else [sys.executable, "-m", "uv"]
    has_uv = uv is not None or importlib.util.find_spec("uv") is not None
    has_pip = importlib.util.find_spec("pip") is not None
    for_pip = [name for name in SAME_SETTINGS if environ.get(name)]
    for_uv = any(name.startswith("UV_") and environ.get(name) for name in SAME_SETTINGS.values())
    own = {name: value for name, value in environ.items() if name not in UNFIT}
    caches = {
        "PIP_CACHE_DIR": os.path.join(scratch, "pip"),
        "UV_CACHE_DIR": os.path.join(scratch, "uv"),
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_BREAK_SYSTEM_PACKAGES": "1",
    }
    own = {**caches, **own}
    if has_uv and not (has_pip and for_pip and not for_uv):
        for name in for_pip:
            own.setdefault(SAME_SETTINGS[name], environ[name])
        return Uv(program, own, scratch, say)
    if has_pip:
        for name, theirs in SAME_SETTINGS.items():
            if theirs.startswith("UV_") and environ.get(theirs):
                own.setdefault(name, environ[theirs])
        return Pip([sys.executable, "-m", "pip"], own, scratch, say)
    raise fault("no-installer", f"{sys.executable} finds neither of them")
