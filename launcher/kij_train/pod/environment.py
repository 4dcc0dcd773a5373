"""What an image or a machine brings along, and what it lacks: variables, a home, settings.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import json
import os
import sys
import tempfile

from kij_train.pod import contract
from kij_train.pod.contract import Failure
from kij_train.pod.status import say


def writable_home(work_dir: str) -> None:
    """Give HOME, TMPDIR and USER usable values where the image made for root leaves none."""
    import pwd

    home = os.path.expanduser("~")
    if not os.access(home, os.W_OK | os.X_OK):
        os.environ["HOME"] = os.path.join(work_dir, "home")
        os.makedirs(os.environ["HOME"], exist_ok=True)
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        os.environ["TMPDIR"] = os.path.join(work_dir, "tmp")
        os.makedirs(os.environ["TMPDIR"], exist_ok=True)
        tempfile.tempdir = None
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        # getpass.getuser, which torch's compiler caches call, fails for a user without a name.
        os.environ.setdefault("USER", f"uid-{os.getuid()}")
        os.environ.setdefault("LOGNAME", os.environ["USER"])


def source_settings(script: str) -> None:
    """Take over what a fabric's shell script exports; what is set already stays as it is.

    Google's gIB, for one, gives its NCCL settings in no other form. Raises Failure.
    """
    import subprocess

    dump = "import json, os, sys; json.dump(dict(os.environ), sys.stdout)"
    # Its own output must not mix with the answer.
    line = '. "$1" >&2 && exec "$2" -c "$3"'
    try:
        answer = subprocess.run(
            ["bash", "-c", line, "settings", script, sys.executable, dump],  # noqa: S607
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        found = json.loads(answer.decode())
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise Failure(contract.EXIT_CONTRACT, f"cannot source {script}: {error}") from error
    new = {k: v for k, v in found.items() if k not in os.environ and k not in ("_", "OLDPWD")}
    os.environ.update(new)
    say("settings of {}: {}".format(script, ", ".join(sorted(new)) or "none"))


def forget_outside_env() -> None:
    """Drop the variables of a run that an image has brought: nobody meant them for this one."""
    names = os.environ.pop(contract.ENV_NAMES, None)
    if names is None:
        return  # on this machine the launcher did it, and in a round the first process
    for name in list(os.environ):
        if contract.OF_A_RUN.fullmatch(name) and name not in names.split():
            del os.environ[name]


def hide_own_folder() -> None:
    """The folder of this file must not offer modules to torch or to the script.

    In a pod the file is a link, and Python has the folder that it leads to.
    """
    here = {os.path.dirname(path(__file__)) for path in (os.path.abspath, os.path.realpath)}
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") not in here]
