"""Whether the ranks of a round hang: what the leader makes of their signs of life and stacks.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

from typing import Any, Callable, Dict, List, Optional

from kij_train.pod.gang import hang, messages
from kij_train.pod.gang.history import span
from kij_train.pod.gang.rounds import Failure, Member, Round
from kij_train.pod.gang.settings import Settings

STACKS_S = 10.0
"""How long pods may take to send the stacks of their ranks."""


class Watch:
    """Looks for a hang in the rounds of one leader."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._settings, self._say = settings, say
        self._is_mute = False
        """Whether the log already says that the script gives no signs of life."""

    def look(self, current: Round, heard: bool, now: float) -> Optional[Failure]:
        """If no rank has given a sign of life for too long, find out which one holds up the others.

        All members are asked for the stacks of their ranks. The round has to end if this returns a
        failure. `heard`: whether a rank has given a sign of life in any round.
        """
        running = [m for m in current.members if m.who.uid not in current.ended]
        if not all(member.silent for member in running):
            current.asked_at = None
            return None
        limit_s = self._settings.hang_timeout_s
        unheard = all(member.never_heard for member in running)
        if unheard:
            limit_s = self._settings.first_sign_s
            if (self._is_mute and not heard) or now - current.began < limit_s:
                return None
        limit = span(limit_s)
        if current.asked_at is None:
            current.asked_at, current.stacks = now, {}
            self._say(f"no sign of life of any rank for {limit}; asking where they are")
            for member in running:
                member.send(messages.AskStacks(current.number))
        everyone = all(member.who.uid in current.stacks for member in running)
        if not everyone and now - current.asked_at < STACKS_S:
            return None
        found = hang.compare([one for some in current.stacks.values() for one in some])
        if unheard and not heard:
            self._take_for_mute(found.text, limit)
            return None
        text = f"no sign of life for {limit}: {found.text}"
        if unheard:
            text = f"no sign of life in the {limit} since the ranks were started, as there was in "
            text += f"a round before: {found.text}"
        return _failure(current, running, found, text)

    def _take_for_mute(self, where: str, limit: str) -> None:
        """Let the round go on, as no rank has given a sign of life in any round.

        The script may be well and just give none: ending it would end it in every round. If it does
        hang, torch's own timeouts of the rendezvous and of collectives end it. The log then has its
        stacks.
        """
        self._is_mute = True
        has_to = "touch $KIJ_HEARTBEAT_FILE"
        if self._settings.heartbeat != hang.FILE:
            has_to = f"print, or {has_to}"
        self._say(
            f"no rank has ever given a sign of life, in the {limit} since they were started: not "
            f"taken for a hang, and none will be noticed until they {has_to}. Now "
            + where.replace("\n", "; ")
        )


def _failure(current: Round, running: List[Member], found: hang.Finding, text: str) -> Failure:
    """The failure of the rank that holds up the others, or of no single one."""
    kij: Dict[str, Any] = {"hung": True}
    if found.rank is not None:
        kij["rank"] = found.rank
    extra = {"py_callstack": found.callstack}
    record = {"message": {"message": text, "extraInfo": extra}, "kij": kij}
    for member in running:
        if any(each.rank == found.rank for each in current.stacks.get(member.who.uid, [])):
            return Failure(member.who, f"rank {found.rank} of {member.who} hung", record)
    return Failure(None, "the ranks hung", record)
