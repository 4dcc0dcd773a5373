"""Which pod gets its chunks from which: a tree below the reader. No I/O, no clock.

A pod hands each chunk on as soon as it has it, to FANOUT others at most. So the whole takes about
as long as the reader's reading, or FANOUT times a pod's sending where that is slower, and one chunk
more for each level of the tree.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

from collections import deque
from typing import Deque, Dict, List, Optional, Set

FANOUT = 2
READER = -1
"""The root of the tree. Members are numbers from 0."""


class Tree:
    """The members, in the order in which they came."""

    def __init__(self) -> None:
        self._parents: Dict[int, Optional[int]] = {READER: None}
        self._children: Dict[int, List[int]] = {READER: []}
        self._avoids: Dict[int, Set[int]] = {}
        self._distrusted: Set[int] = set()

    @property
    def members(self) -> List[int]:
        """Of all members, in the order in which they came."""
        return [member for member in self._parents if member != READER]

    def parent(self, member: int) -> Optional[int]:
        """Whom it gets its chunks from; None where that one is gone."""
        return self._parents[member]

    def depth(self, member: int) -> int:
        """Steps to the reader, as far as there are parents."""
        steps, at = 0, self._parents[member]
        while at is not None:
            steps, at = steps + 1, self._parents[at]
        return steps

    def add(self, member: int) -> int:
        """Take a member in; gives its parent."""
        self._parents[member], self._children[member] = None, []
        self._avoids[member] = set()
        return self._place(member)

    def remove(self, member: int) -> None:
        """It is gone. Its children have no parent until they are moved."""
        self._leave(member)
        for child in self._children.pop(member):
            self._parents[child] = None
        del self._parents[member], self._avoids[member]
        for avoided in self._avoids.values():
            avoided.discard(member)
        self._distrusted.discard(member)

    def move(self, member: int) -> int:
        """Give it another parent than it has, or had; gives that one.

        The reader takes whoever finds no other one, however many children it has.
        """
        had = self._parents[member]
        if had is not None and had != READER:
            self._avoids[member].add(had)
        self._leave(member)
        return self._place(member)

    def distrust(self, member: int) -> None:
        """From now on, nobody is sent to this member."""
        self._distrusted.add(member)

    def _leave(self, member: int) -> None:
        parent = self._parents[member]
        if parent is not None:
            self._children[parent].remove(member)
        self._parents[member] = None

    def _place(self, member: int) -> int:
        """Below the first one with room, level by level from the reader."""
        ahead: Deque[int] = deque([READER])
        avoided, chosen = self._avoids[member] | self._distrusted, READER
        while ahead:
            at = ahead.popleft()
            if at not in avoided and len(self._children[at]) < FANOUT:
                chosen = at
                break
            ahead.extend(child for child in self._children[at] if child != member)
        self._parents[member] = chosen
        self._children[chosen].append(member)
        return chosen
