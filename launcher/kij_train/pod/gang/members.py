"""The connections of a leader to its members.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import time
from typing import Callable, Dict, Optional

from kij_train.pod import status
from kij_train.pod.gang import messages
from kij_train.pod.gang.channel import KEEP_ALIVE_S, Channel
from kij_train.pod.gang.history import History, Who
from kij_train.pod.gang.leader import Leader
from kij_train.pod.gang.missed import Unheard
from kij_train.pod.gang.rounds import Member


class Members:
    """The connections that other pods have to this one while it leads."""

    def __init__(self, unheard: Unheard, on_change: Callable[[], None]) -> None:
        """`on_change` is called when a member has come, has said something, or is gone."""
        self._unheard, self._on_change = unheard, on_change
        self._channels: Dict[Channel, None] = {}
        self._pinging: Optional[asyncio.Future[None]] = None

    async def serve(
        self,
        channel: Channel,
        leader: Leader,
        who: Who,
        history: History,
        leads: Callable[[], bool],
    ) -> None:
        """Have a pod as a member until its connection ends; `leads` says whether this pod leads."""
        member = Member(who, channel.send, time.monotonic(), channel.close)
        self._channels[channel] = None
        if self._pinging is None or self._pinging.done():
            self._pinging = asyncio.ensure_future(self._ping())
        leader.join(member, history)
        self._unheard.remove(who)
        self._on_change()
        try:
            while True:
                report = await channel.receive(messages.REPORTS)
                if report is None:
                    break
                leader.take(member, report)
                if not isinstance(report, messages.Beats):  # which come often, and decide nothing
                    self._on_change()
        finally:
            if channel.refused:
                status.say(f"{who} sent a malformed message: {channel.refused}")
            channel.close()
            self._channels.pop(channel)
            leader.leave(member)
            if channel.fell_silent and leads():
                self._unheard.add(who)
            self._on_change()

    async def _ping(self) -> None:
        """One task for all: thousands of them take a leader a good part of its time."""
        while self._channels:
            for channel in self._channels:
                channel.send_ping()
            await asyncio.sleep(KEEP_ALIVE_S)

    async def flush(self) -> None:
        """Wait a moment until everything is sent."""
        await asyncio.gather(*(channel.flush() for channel in self._channels))

    async def close(self) -> None:
        """End all connections, once everything is sent."""
        await self.flush()
        for channel in self._channels:
            channel.close()
