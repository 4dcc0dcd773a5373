"""The runner of an array as a process, with a plan of its own: no cluster, no launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kij_train.pod import ITEMS, itemplan, results
from kij_train.pod.itemplan import ArraySettings

PATIENCE_S = 240
STATUS = "kij-train: "


@dataclass(frozen=True)
class Result:
    """How a runner ended."""

    returncode: int
    out: bytes
    err: str
    message: str
    """The termination message."""

    @property
    def output(self) -> str:
        """What the items wrote to stdout."""
        lines = self.out.decode("utf-8", "replace").splitlines(keepends=True)
        return "".join(line for line in lines if not results.is_record_line(line))

    @property
    def errors(self) -> str:
        """What the items wrote to stderr."""
        lines = self.err.splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith(STATUS))

    @property
    def account(self) -> results.Account:
        found = results.decode_account(self.message)
        assert found is not None, self.message
        return found

    @property
    def logged(self) -> results.Part:
        """The part, as it came through the log."""
        reader = results.LogReader()
        for line in self.out.decode("utf-8", "replace").split("\n"):
            reader.feed(line)
        return reader.part(self.account)

    @property
    def failure(self) -> dict[str, Any]:
        """The failure record, for `kij-train why`."""
        record = json.loads(self.message)
        return {"message": record["message"]["message"], **record["kij"]}


class Array:
    """A folder with a plan and scripts, and runners in it."""

    def __init__(
        self, folder: Path, items: Sequence[Any], *, indexes: int = 1, **settings: Any
    ) -> None:
        self.folder = folder
        text = itemplan.encode(items, indexes=indexes, chunk=None, seed=0)
        (folder / "items.xz").write_bytes(itemplan.compress(text))
        self.settings = ArraySettings(
            name="squares",
            plan_sha256=itemplan.sha256(text),
            items_file=str(folder / "items.xz"),
            **{"grace_s": 20, "run_dir": str(folder / "run"), **settings},
        )

    def script(self, text: str, name: str = "a.py") -> str:
        """Write a script; its name."""
        (self.folder / name).write_text(text)
        return name

    def start(
        self, *argv: str, index: int = 0, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """A runner that goes on; its output is in files."""
        python = options.pop("python", sys.executable)
        line = [python, "-u", options.pop("runner", str(ITEMS[0])), *argv]
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            options = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **options}
            return subprocess.Popen(
                line,
                cwd=self.folder,
                env={
                    **os.environ,
                    "KIJ_ARRAY": self.settings.to_json(),
                    "JOB_COMPLETION_INDEX": str(index),
                    "TORCHELASTIC_ERROR_FILE": str(self.folder / "message"),
                    **(env or {}),
                },
                **options,
            )

    def end(self, runner: subprocess.Popen[bytes], signum: int | None = None) -> Result:
        """Wait for a runner, after a signal perhaps."""
        if signum is not None:
            runner.send_signal(signum)
        try:
            code = runner.wait(PATIENCE_S)
        finally:
            runner.kill()
            runner.wait()
        message = self.folder / "message"
        return Result(
            code,
            (self.folder / "out").read_bytes(),
            (self.folder / "err").read_text(errors="replace"),
            message.read_text() if message.exists() else "",
        )

    def run(self, *argv: str, **options: Any) -> Result:
        """A runner, from beginning to end."""
        return self.end(self.start(*argv, **options))

    @property
    def results(self) -> Path:
        return Path(self.settings.results_dir)

    def part(self, index: int = 0) -> list[dict[str, Any]]:
        """The records of a part file, which is whole."""
        part = results.read_part((self.results / results.part_name(index)).read_bytes())
        assert not part.damage
        return part.records


def keys(records: Iterable[dict[str, Any]]) -> list[str]:
    return [record["key"] for record in records]


def until(happens: Callable[[], object]) -> None:
    """Wait for something to be true."""
    deadline = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")
