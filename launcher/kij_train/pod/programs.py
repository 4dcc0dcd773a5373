"""Programs that a node runs instead of a Python script, and jobs without torchrun.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import os
import shutil
import signal
import sys
from typing import List

from kij_train.pod import contract, rank0, signals
from kij_train.pod.contract import Failure, Node
from kij_train.pod.status import Exited, say


def fault_of_program(path: str, is_here: bool = True) -> str:
    """Why the kernel would not run a file that is there, or "".

    Of a missing interpreter it says "No such file", as if the program were. With `is_here` the
    interpreter is looked for: this is the machine, or the image, that runs it.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError:
        return ""
    if head.startswith(b"\xef\xbb\xbf#!"):
        return "it begins with a byte order mark, in front of #!"
    if not head.startswith(b"#!"):
        is_text = b"\0" not in head
        return "it has no first line that says what runs it, such as #!/bin/bash" if is_text else ""
    line = head[2:].split(b"\n", 1)[0].decode("utf-8", "replace").strip(" ")
    if line.endswith("\r"):
        return f"its lines end as on Windows, so that it asks for {line!r} to run it"
    wanted, *arguments = line.split() or [""]
    if is_here and os.path.basename(wanted) == "env" and os.path.exists(wanted):
        names = [word for word in arguments if word[0] != "-" and "=" not in word]
        wanted = names[0] if names and shutil.which(names[0]) is None else wanted
    if is_here and not os.path.exists(wanted):
        return f"its first line asks for {wanted or 'nothing'} to run it, which is not there"
    return ""


def run_plain(node: Node, argv: List[str]) -> int:
    """Run the command once, in the code's folder. Gives its exit code, 128 + N for signal N.

    After contract.AWAIT_RANK0 the nodes but the first wait until rank 0 accepts connections.
    """
    os.environ.setdefault(
        contract.ENV_RANK0_HOST, "localhost" if node.rank == 0 else node.master_addr
    )
    contract.take_role(node.rank)
    if argv[0] == contract.AWAIT_RANK0:
        argv = argv[1:]
        if node.rank != 0:
            timeout_s = node.rendezvous_timeout_s
            rank0.wait_for_rank0(node.master_addr, node.master_port, timeout_s, node.nnodes)
    command = argv[1:] if argv[0] == "--no-python" else [sys.executable, "-u", *argv]
    signal.pthread_sigmask(
        signal.SIG_BLOCK, signals.ENDINGS
    )  # until there is a child to give them to
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setsigmask=())
    except OSError as error:
        found = shutil.which(command[0])
        fault = fault_of_program(found) if found is not None else ""
        raise Failure(
            contract.EXIT_CODE,
            f"{command[0]}: cannot be run in the code or in the image: {fault or error.strerror}",
        ) from error
    status = signals.attend(child)
    if status:
        say(plain_end(command[0], status))
    return signals.exit_code(status)


def plain_end(command: str, status: int) -> str:
    """How a command without torchrun has ended."""
    if os.WIFSIGNALED(status):
        return f"{command} was killed by {signals.signal_name(os.WTERMSIG(status))}"
    return Exited(command, os.WEXITSTATUS(status)).text()
