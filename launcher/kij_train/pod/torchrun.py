"""torchrun, run in the node's own process.

So SIGTERM has a handler from the first line to the last, and exit codes can be told apart.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from typing import Any, Iterator, List

from kij_train.pod import contract, lines, programs, rank0, records, signals, stacks
from kij_train.pod.contract import Failure, Node
from kij_train.pod.status import no_torch, say


def torchrun_args(node: Node, argv: List[str], log_dir: str) -> List[str]:
    """torchrun's own arguments for this node, the script's behind them."""
    args = [
        f"--nnodes={node.nnodes}",
        f"--nproc-per-node={node.nproc}",
        f"--node-rank={node.rank}",
        "--rdzv-backend=static",
        f"--master-addr={node.master_addr}",
        f"--master-port={node.master_port}",
        f"--rdzv-conf=timeout={node.rendezvous_timeout_s}",
        "--rdzv-id={}".format(os.environ.get(contract.ENV_JOB) or "none"),  # TORCHELASTIC_RUN_ID
        f"--log-dir={log_dir}",  # of the ranks' failure records; their output is not redirected
    ]
    if argv[0] == "--no-python":
        found = shutil.which(argv[1])
        if found is None:
            raise Failure(
                contract.EXIT_CODE,
                f"{argv[1]}: no such program, or it may not be run, in the code or in the image",
            )
        fault = programs.fault_of_program(found)
        if fault:
            raise Failure(contract.EXIT_CODE, f"{argv[1]} cannot be run: {fault}")
        return args + argv
    worker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
    return [*args, worker, contract.WORKER, *argv]


@contextlib.contextmanager
def quiet_exit_barrier() -> Iterator[None]:
    """Keep back what torchrun says while its agents wait for each other, once all ranks are done.

    The agent of rank 0 has the store, and may leave before the others have read the last word.
    They then log thirty lines of a lost connection, of which they make nothing: it is a good end.
    If it is none, an exception leaves the barrier, and what was kept back is shown.
    """
    try:
        from torch.distributed.elastic.agent.server.api import SimpleElasticAgent

        wait = SimpleElasticAgent._exit_barrier
    except (ImportError, AttributeError):  # another version's
        wait = None
    if wait is None:
        yield
        return

    def wait_quietly(agent: Any) -> None:
        sys.stderr.flush()
        shown = os.dup(2)
        with tempfile.TemporaryFile() as kept:
            os.dup2(kept.fileno(), 2)  # C++ writes there as well
            try:
                wait(agent)
            except BaseException:
                kept.seek(0)
                with contextlib.suppress(OSError):
                    os.write(shown, kept.read())
                raise
            finally:
                sys.stderr.flush()
                os.dup2(shown, 2)
                os.close(shown)

    SimpleElasticAgent._exit_barrier = wait_quietly
    try:
        yield
    finally:
        SimpleElasticAgent._exit_barrier = wait


def run_torchrun(node: Node, argv: List[str]) -> int:
    """Import torch, wait for rank 0, then be torchrun. Gives the exit code.

    In this order: rank 0 listens when it has imported torch, and a name that is asked for too early
    is a negative DNS answer, which name servers keep for seconds.
    """
    try:
        from torch.distributed import run as torchrun
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    except ImportError as error:
        raise Failure(contract.EXIT_CONTRACT, no_torch(sys.executable, error)) from error
    if node.rank != 0:
        rank0.wait_for_rank0(
            node.master_addr, node.master_port, node.rendezvous_timeout_s, node.nnodes
        )
    if len(signals.heard_signals()) < len(signals.ENDINGS):
        # torchrun would hear what is ignored, and so would its ranks.
        heard = [signal.Signals(number).name for number in signals.heard_signals()]
        os.environ["PET_SIGNALS_TO_HANDLE"] = ",".join(heard)
    if node.nproc > 1:  # torchrun sets the same, but with five lines of warning
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    scratch_dir = os.environ.get(contract.ENV_SCRATCH_DIR)
    with tempfile.TemporaryDirectory(prefix="kij-ranks-", dir=scratch_dir) as log_dir:
        os.environ[contract.ENV_RANKS_DIR] = log_dir
        contract.take_role(node.rank)
        if not os.environ.get(contract.ENV_HEARTBEAT_DIR):  # no supervisor watches: `top` may
            os.environ[contract.ENV_HEARTBEAT_DIR] = os.path.join(log_dir, "beats")
            os.mkdir(os.environ[contract.ENV_HEARTBEAT_DIR])
        several = lines.Lines(log_dir, node.nproc) if node.nproc > 1 else contextlib.nullcontext()
        try:
            with several, quiet_exit_barrier():
                torchrun.run(torchrun.parse_args(torchrun_args(node, argv, log_dir)))
        except ChildFailedError as error:
            signals.take_signals(signal.SIG_IGN)  # it ends, with this record
            for failure in error.failures.values():
                stacks.show_crash(stacks.crash_file(log_dir, failure.local_rank))
            # Not torchrun's table: the ranks have printed their tracebacks.
            say(records.record_failures(contract.error_file(), node, error.failures, log_dir))
            return contract.EXIT_FAILED
        except SignalException as error:
            records.record_unreported(contract.error_file(), node, log_dir)
            say(f"ended by {signal.Signals(error.sigval).name}")
            return 128 + int(error.sigval)
        except RuntimeError as error:
            # torch's store errors are RuntimeErrors; rank 0's says how many nodes came.
            if "clients joined" not in str(error):
                raise
            raise Failure(
                contract.EXIT_RENDEZVOUS,
                f"not every node came within {node.rendezvous_timeout_s} s: {error}",
            ) from error
    return 0
