"""What is too much for a program of Linux or an object of Kubernetes.

Told here, not by a kernel or an API server in the middle of a launch.
"""

from __future__ import annotations

from kij_train.spec.common import Common
from kij_train.spec.types import SpecConflict

MOST_STRING_BYTES = 131_071
"""Of an argument, and of NAME=VALUE in the environment: MAX_ARG_STRLEN of Linux."""
MOST_COMMAND_BYTES = 2**20
"""Of all of them together: an object of Kubernetes has about 1.5 MiB, a command of Linux 2."""
MOST_ANNOTATION_BYTES = 2**18
"""Of all annotations together, as Kubernetes allows."""


MOST_PATH_BYTES = 4095
MOST_NAME_BYTES = 255
"""PATH_MAX and NAME_MAX of Linux."""


def check_paths(spec: Common) -> None:
    """Raise SpecConflict for paths that no file can have."""
    for field in (
        "script",
        "module",
        "program",
        "code_dir",
        "kubeconfig",
        "settings_script",
        "requirements",
    ):
        text = getattr(spec, field) or ""
        path = (text.replace(".", "/") if field == "module" else text).encode()
        longest = max(map(len, path.split(b"/")))
        if len(path) > MOST_PATH_BYTES or longest > MOST_NAME_BYTES:
            raise SpecConflict(
                field,
                f"is too long: a path has {MOST_PATH_BYTES:,} bytes at most, a name in it "
                f"{MOST_NAME_BYTES}",
            )


def check_sizes(spec: Common) -> None:
    """Raise SpecConflict for arguments, variables or annotations that are too long."""
    strings: list[tuple[str, str | int, str]]
    strings = [("args", index, text) for index, text in enumerate(spec.args)]
    strings += [("env", name, f"{name}={value}") for name, value in spec.env.items()]
    for field, place, text in strings:
        size = len(text.encode())
        if size > MOST_STRING_BYTES:
            raise SpecConflict(
                field,
                f"is {size:,} bytes long, and Linux gives a program {MOST_STRING_BYTES:,} in one "
                "string. Put it into a file",
                place,
            )
    # A dollar sign is written twice for the kubelet.
    command = sum(len(text.encode()) + text.count("$") + 1 for _, _, text in strings)
    if command > MOST_COMMAND_BYTES:
        field, what = ("args", "and env are") if spec.args else ("env", "is")
        raise SpecConflict(
            field,
            f"{what} {command:,} bytes together, and {MOST_COMMAND_BYTES:,} is the most that a Job "
            "can carry. Put them into a file",
        )
    notes = sum(len(key.encode()) + len(text.encode()) for key, text in spec.annotations.items())
    if notes > MOST_ANNOTATION_BYTES:
        raise SpecConflict(
            "annotations",
            f"are {notes:,} bytes together, and Kubernetes takes {MOST_ANNOTATION_BYTES:,} at most",
        )
