"""What a pod needs before its work begins: home, settings, code, a command, packages, data.

Every first process calls `prepare` once: the bootstrap, the supervisor of a job that restarts (once
a pod, not once a round), the runner of an array. What it sets in the environment and in `sys.path`
is there for torch and for the ranks.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import os
import sys
from typing import Callable, Dict

from kij_train.pod import contract, environment, unpack
from kij_train.pod.contract import Failure

Say = Callable[[str], None]


def prepare(env: Dict[str, str], say: Say) -> None:
    """Make the pod ready, from a copy of its environment. Raises Failure.

    The code comes first, so that the command, which is next, can be a file of it; then what takes
    long: packages, then data.
    """
    if not env.get(contract.ENV_PARENT_PID):
        environment.writable_home(contract.WORK_DIR)
    if env.get(contract.ENV_SETTINGS_SCRIPT):
        environment.source_settings(env[contract.ENV_SETTINGS_SCRIPT])
    code_sha256 = env.get(contract.ENV_CODE_SHA256)
    if code_sha256:
        code_dir = os.path.join(contract.WORK_DIR, "code")
        unpack.unpack_code(contract.BUNDLE_DIR, code_dir, code_sha256)
        os.chdir(code_dir)
        # PYTHONPATH may name folders of the code, which were not there when Python started.
        for path in [path for path, found in sys.path_importer_cache.items() if found is None]:
            del sys.path_importer_cache[path]
    if env.get(contract.ENV_RUN_DIR):
        make_run_dir(env[contract.ENV_RUN_DIR])
    if env.get(contract.ENV_SETUP):
        run_setup(env[contract.ENV_SETUP], say)
    if env.get(contract.ENV_PACKAGES_SHA256) or env.get(contract.ENV_PACKAGES_DIR):
        from kij_train.pod import packages  # its patterns take a quarter of a second to compile

        packages.make_ready(env, say)
    if env.get(contract.ENV_FETCH):
        from kij_train.pod.spread.origins import fetch_all  # not in pods that fetch nothing

        fetch_all(env, say)


def make_run_dir(path: str) -> None:
    """Make the folder of this index, for its script. Raises Failure."""
    for last in (False, False, True):
        try:
            os.makedirs(path, exist_ok=True)
            return
        except OSError as error:
            # Another run of this machine may have ended, and removed a folder above as empty.
            if isinstance(error, FileNotFoundError) and not last:
                continue
            raise Failure(
                contract.EXIT_PREPARE, f"cannot make the folder {path}: {error.strerror}"
            ) from error


def run_setup(command: str, say: Say) -> None:
    """Run the user's command with the shell, in the folder of the code. Raises Failure."""
    import subprocess

    say(f"setup: {command}")
    try:
        code = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL).returncode  # noqa: S607
    except OSError as error:
        raise Failure(
            contract.EXIT_PREPARE, f"--setup needs a shell, sh, in the image: {error.strerror}"
        ) from error
    if code:
        how = f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code}"
        raise Failure(contract.EXIT_PREPARE, f"--setup: {command!r} {how}")
