"""This node's part in the rounds: its ranks, their signs of life, and the accounts of the time.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import contextlib
import json
import os
import time
from typing import Callable, List, Optional

from kij_train.pod import contract, records, stacks, status
from kij_train.pod.gang import hang, messages
from kij_train.pod.gang.history import History, Steps
from kij_train.pod.gang.ranks import Zygote
from kij_train.pod.gang.settings import ENV_RESTARTS, ENV_SPARE, READY_PORT, Settings

LOOKS_A_TIMEOUT = 10
"""How often, at least, this node looks for signs of life within one --hang-timeout."""


def keep_accounts(history: History, state: str, since: float, again_s: float = 0.0) -> None:
    """Write a file that `kij-train status` reads in the pod.

    `again_s`: seconds of this round, so far, that repeated steps of earlier rounds.
    """
    if os.environ.get(contract.ENV_PARENT_PID) or not os.path.isdir(contract.WORK_DIR):
        return
    news = {"history": history.as_json(), "state": state, "since": since, "again_s": again_s}
    part = contract.ACCOUNTS_FILE + ".part"
    with contextlib.suppress(OSError):  # a full disk must not stop the training
        with open(part, "w") as file:
            json.dump(news, file)
        os.replace(part, contract.ACCOUNTS_FILE)


class Part:
    """What this node does in the rounds that the leader lets it take part in."""

    def __init__(
        self,
        node: contract.Node,
        settings: Settings,
        zygote: Zygote,
        scratch: str,
        output: Optional[hang.Output],
        report: Callable[[messages.Report], None],
    ) -> None:
        """`scratch` is a folder for the rounds' files. `report` sends a message to the leader."""
        self.zygote = zygote
        self.began = 0.0
        self.steps = Steps(None)
        """The steps of this round."""
        self.has_rank_0 = False
        self._node, self._settings = node, settings
        self._scratch, self._output, self._report = scratch, output, report
        self._round = 0
        self._was_spare = False
        self._signs: Optional[hang.Signs] = None
        self._tasks: List[asyncio.Future[None]] = []
        """What runs in the background in this round."""

    def stand_by(self) -> None:
        """Say, once, that this node takes no part now."""
        if not self._was_spare:
            self._was_spare = True
            status.say("this node is a spare: it waits until another one is lost")

    def start(self, order: messages.Start, reached: Optional[int]) -> None:
        """Take part in a round; `reached` is the highest step of the rounds before."""
        self._round, self.steps = order.round, Steps(reached)
        self.has_rank_0 = order.node_rank == 0
        node = self._node._replace(
            rank=order.node_rank, nnodes=order.nnodes, master_addr=order.address
        )
        env = {
            ENV_RESTARTS: str(self._round - 1),
            ENV_SPARE: str(int(self._was_spare)),
            contract.ENV_NODE_RANK: str(node.rank),
            contract.ENV_NNODES: str(node.nnodes),
            contract.ENV_WORLD_SIZE: str(node.nnodes * node.nproc),
            contract.ENV_MASTER_ADDR: node.master_addr,
            contract.ENV_ERROR_FILE: self._record_file(),
        }
        if self._round > 1:
            env[contract.ENV_PREFLIGHT] = ""
        self._tasks = [asyncio.ensure_future(self._show_ready())]
        env[contract.ENV_HEARTBEAT_DIR] = os.path.join(self._scratch, f"beats-{self._round}")
        signs = self._signs = hang.Signs(env[contract.ENV_HEARTBEAT_DIR], self._output)
        self._tasks.append(asyncio.ensure_future(self._watch(signs)))
        if self._settings.hang_timeout_s and os.environ.get(contract.ENV_PARENT_PID):
            env[contract.ENV_STACKS_DIR] = self._stacks_dir()
        first = node.rank * node.nproc
        last = first + node.nproc - 1
        ranks = f"rank {first}" if first == last else f"ranks {first}-{last}"
        status.say(f"round {self._round}: {ranks} of {node.nnodes * node.nproc}")
        self._was_spare = False
        if self._output is not None:
            self._output.end_lines()
        self.began = time.monotonic()
        self.zygote.start(messages.Run(node, env))

    def ended(self, code: int) -> None:
        """The ranks have ended. `code` is the exit code of torchrun, negative for a signal."""
        record = records.read_record(self._record_file())
        self._report(messages.RanksEnded(code, self._round, record))

    def tell_stacks(self, number: int) -> None:
        """Report where the ranks of that round are."""
        self._tasks.append(asyncio.ensure_future(self._tell_stacks(number)))

    def tell_beats(self, number: int) -> None:
        """Report the newest heartbeats of the ranks of that round."""
        if self._signs is not None and number == self._round:
            beats = self._signs.beats()
            self._report(messages.Beats(beats, time.monotonic(), number))

    async def _tell_stacks(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(None, stacks.stacks_of_ranks, self._stacks_dir())
        self._report(messages.Stacks(hang.brief(found), number))

    async def _watch(self, signs: hang.Signs) -> None:
        """Report when the ranks of this round fall silent or wake again, and their steps."""
        number, limit = self._round, self._settings.hang_timeout_s or float("inf")
        told = (False, False)
        while self.zygote.running and self._round == number:
            now = (signs.silence_s() > limit, signs.ever)
            if now != told:
                told = now
                self._report(messages.Silence(*now, number))
            if signs.step is not None:
                before = (self.steps.step, self.steps.again_s)
                self.steps.see(signs.step, time.monotonic())
                if (self.steps.step, self.steps.again_s) != before:
                    self._report(messages.Step(signs.step, self.steps.again_s, number))
            await asyncio.sleep(min(1.0, limit / LOOKS_A_TIMEOUT))

    async def _show_ready(self) -> None:
        """Keep the port of the readiness probe open while the ranks run."""
        if os.environ.get(contract.ENV_PARENT_PID):
            return
        port = self._settings.address(self._node.rank)[1] + READY_PORT

        async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        with contextlib.suppress(OSError):
            server = await asyncio.start_server(close, None, port)
            try:
                while self.zygote.running:
                    await asyncio.sleep(0.2)
            finally:
                server.close()

    def _stacks_dir(self) -> str:
        if not os.environ.get(contract.ENV_PARENT_PID):
            return contract.STACKS_DIR
        return os.path.join(self._scratch, "stacks")

    def _record_file(self) -> str:
        return os.path.join(self._scratch, f"round-{self._round}.json")
