"""What a pod does when a network is gone: its own, or that of other pods.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import os
from typing import Dict, NoReturn, Optional

from kij_train.pod import contract, records, status
from kij_train.pod.gang import network, processes
from kij_train.pod.gang.history import Who


class Unheard:
    """Pods that fell silent, and that the log has not named yet.

    When the log names a pod, a `launch` that is attached deletes it, so that the Job creates
    another one. Kubernetes itself takes most of a minute to notice a dead machine, and never
    notices a cut link.
    """

    def __init__(self, peer: str) -> None:
        """`peer` is the name of another pod."""
        self._peer = peer
        self._pods: Dict[str, Who] = {}
        """uid of a supervisor → the pod."""
        self._telling: Optional[asyncio.Future[None]] = None

    def add(self, who: Who) -> None:
        """A pod fell silent."""
        self._pods[who.uid] = who

    def remove(self, who: Who) -> None:
        """A pod is back."""
        self._pods.pop(who.uid, None)

    def clear(self) -> None:
        """Forget all: other pods train instead of them."""
        self._pods.clear()

    def tell(self, may_train: bool) -> None:
        """Name them in the log. This happens in the background.

        `may_train`: whether they are so many that they may train by themselves.
        """
        if self._pods and (self._telling is None or self._telling.done()):
            self._telling = asyncio.ensure_future(self._tell_where_connected(may_train))

    async def _tell_where_connected(self, may_train: bool) -> None:
        """Name them, unless this pod itself is cut off: then the silent pods may be well."""
        if await network.has_network(self._peer):
            for who in self._pods.values():
                status.say(status.Unheard(who.node, who.ip, who.machine, may_train).text())
            self._pods.clear()
        else:
            await asyncio.sleep(network.LOOK_S)

    async def stop(self) -> None:
        """Name no more pods."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)


def end_cut_off(seconds: float, index: int) -> NoReturn:
    """End this pod because its network is gone. The Job then creates another one."""
    text = f"cut off: other nodes, DNS and the API server were not reached for {seconds:.0f} s"
    status.say(f"{text}. This pod ends, so that the Job makes another one")
    processes.kill_descendants()
    who = {"index": index, "exit_code": contract.EXIT_RENDEZVOUS}
    records.write_record(contract.error_file(), text, "", **who)
    os._exit(contract.EXIT_RENDEZVOUS)  # a normal exit may wait a minute for DNS threads
