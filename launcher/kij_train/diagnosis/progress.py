"""What keeps a job from going on: pods that wait, machines that are gone, silence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kij_train import commands, units
from kij_train.diagnosis import pending
from kij_train.diagnosis.finding import Finding
from kij_train.diagnosis.held import state_with
from kij_train.diagnosis.jobview import JobView, Object, epoch
from kij_train.diagnosis.phases import (
    Node,
    Phase,
    is_out_of_touch,
    phases,
    status_of_condition,
)
from kij_train.pod import rank0
from kij_train.pod.status import WaitingForRank0, step_of

STUCK_AFTER_S = 60.0
SILENT_AFTER_S = 300.0
STALE_AFTER_S = 2 * rank0.STILL_WAITING_S
"""After which a node that said that it waits for rank 0 waits no more: it would have said it
again."""
MOST_NAMED = 5

LastLines = Mapping[int, tuple[float, str]]


def going_on(
    job: JobView,
    nodes: Sequence[Node],
    pods: Sequence[Object],
    events: Sequence[Object],
    *,
    now: float,
    machines: Sequence[Object],
    last_lines: LastLines,
) -> tuple[str, list[Finding]]:
    """Headline and findings of a job that has not ended."""
    start = epoch(job.started or job.created)
    age = units.format_seconds(max(0.0, now - start)) if start is not None else "?"
    counted = ", ".join(f"{phase.value} {count}" for phase, count in phases(nodes).items())
    nodes = [node for node in nodes if node.phase is not Phase.LOST]
    lost = _on_lost_machines(nodes, pods, events, machines)
    without = _not_created(nodes, events)
    if job.restarts_by_itself:
        without = without or _not_replaced(nodes, events)
    waiting = without + pending.of_nodes(nodes, job, events, machines)
    unfit = any(each.kind in ("unschedulable", "no-node-coming") for each in waiting)
    if job.array is None and unfit:
        waiting += _half_gang(nodes)
    headline = f"{job.name} is {state_with(job, nodes).value}, {age} after its start: {counted}"
    if waiting or lost:
        return headline, lost + waiting
    behind = [n for n in nodes if n.phase in (Phase.PENDING, Phase.STARTING, Phase.PULLING)]
    if behind:
        slow = _without_rank_0(nodes, now) or _slow(behind, now)
        return headline, slow
    busy = _gets_ready(last_lines)
    if busy:
        return headline, busy
    apart = _cannot_reach_rank_0(job.name, last_lines, now)
    speaker = 0
    if job.restarts_by_itself and last_lines:
        speaker = max(last_lines, key=lambda index: last_lines[index])
    if all(node.phase in (Phase.DONE, Phase.FAILED) for node in nodes):
        headline = f"{job.name} has ended, {age} after its start: {counted}"
    return headline, apart or _silent(speaker, last_lines, now)


def _not_created(nodes: Sequence[Node], events: Sequence[Object]) -> list[Finding]:
    """Nodes for which the Job controller has made no pod, and what was said against it."""
    without = [node for node in nodes if node.pod is None and node.phase is Phase.PENDING]
    if not without:
        return []
    refused = pending.of_creation(events)
    if len(without) == len(nodes):
        return refused or [Finding("no-pods", "the Job controller has made no pods yet", (), None)]
    some = f"{len(without)} of {len(nodes)} nodes have no pod: "
    return [replace(each, summary=some + each.summary) for each in refused]


def _not_replaced(nodes: Sequence[Node], events: Sequence[Object]) -> list[Finding]:
    """Nodes whose pod has failed, and that have got no other: what was said against it since."""
    failed = [node for node in nodes if node.phase is Phase.FAILED]
    if not failed:
        return []
    since = min(node.since or 0.0 for node in failed)
    new = [each for each in events if (epoch(pending.time_of_event(each)) or 0.0) >= since]
    some = f"{len(failed)} of {len(nodes)} nodes have lost their pod, and get no other: "
    return [replace(each, summary=some + each.summary) for each in pending.of_creation(new)]


def _half_gang(nodes: Sequence[Node]) -> list[Finding]:
    """Some nodes hold their machines and wait for others that find no place."""
    hold = [node for node in nodes if node.phase in (Phase.RUNNING, Phase.WAITING)]
    if not hold:
        return []
    return [
        Finding(
            "half-gang",
            f"{len(hold)} of {len(nodes)} nodes hold what they have, and wait for the others",
            (),
            "all or none, where the cluster has it: --queue NAME, or --scheduler; or fewer --nodes",
        )
    ]


def _on_lost_machines(
    nodes: Sequence[Node],
    pods: Sequence[Object],
    events: Sequence[Object],
    machines: Sequence[Object],
) -> list[Finding]:
    """Pods that count as running on machines that are not heard of."""
    gone = {
        str(machine["metadata"]["name"])
        for machine in machines
        if status_of_condition(machine, "Ready") in ("False", "Unknown")
    }
    not_ready = {str(pod["metadata"]["name"]) for pod in pods if is_out_of_touch(pod)}
    found = [
        node
        for node in nodes
        if node.phase in (Phase.RUNNING, Phase.WAITING, Phase.STANDBY, Phase.ENDING)
        and (node.pod in not_ready or node.node in gone)
    ]
    if not found:
        return []
    where = ", ".join(dict.fromkeys(str(node.node) for node in found))
    said = [
        f"{event['involvedObject'].get('name')}: {event.get('message', '')}"
        for event in events
        if event.get("reason") == "NodeNotReady"
    ]
    return [
        Finding(
            "node-lost",
            f"{_named(found)} on a machine that does not answer: {where}",
            tuple(said[-1:]),
            "Kubernetes gives its pods up after their toleration, 300 s as a rule; to end the job "
            f"now: {commands.on_job('cancel')}",
        )
    ]


def _named(nodes: Sequence[Node]) -> str:
    few = ", ".join(str(node.index) for node in nodes[:MOST_NAMED])
    more = f" and {len(nodes) - MOST_NAMED} more" if len(nodes) > MOST_NAMED else ""
    return f"index {few} is" if len(nodes) == 1 else f"indexes {few}{more} are"


def _without_rank_0(nodes: Sequence[Node], now: float) -> list[Finding]:
    """Nodes run and wait for index 0, which takes long to start."""
    waiting = [node for node in nodes if node.phase is Phase.WAITING]
    first = next((node for node in nodes if node.index == 0), None)
    if not waiting or first is None:
        return []
    longest = max(now - (node.since or now) for node in waiting)
    if longest < STUCK_AFTER_S:
        return []
    at = f" on {first.node}" if first.node else ""
    return [
        Finding(
            "waiting-for-rank-0",
            f"{len(waiting)} {'node waits' if len(waiting) == 1 else 'nodes wait'} for index 0, "
            f"which is {first.phase.value}{at}, for {units.format_seconds(longest)}",
            (f"pod {first.pod}",) if first.pod else (),
            _patience(first.phase),
        )
    ]


def _patience(phase: Phase) -> str | None:
    return "a large image takes minutes the first time" if phase is Phase.PULLING else None


def _slow(nodes: Sequence[Node], now: float) -> list[Finding]:
    """Nodes that take long without a word of complaint."""
    oldest = min(nodes, key=lambda node: node.since or now)
    waited = now - (oldest.since or now)
    if waited < STUCK_AFTER_S:
        return []
    if oldest.held_by is not None:
        return [
            Finding(
                "init-container",
                f"container {oldest.held_by}, which is not kij-train's and runs before the "
                f"training, has not ended for {units.format_seconds(waited)}",
                (f"pod {oldest.pod}",),
                f"its log: {commands.kubectl('logs', str(oldest.pod), '-c', oldest.held_by)}",
            )
        ]
    at = f" on {oldest.node}" if oldest.node else ""
    return [
        Finding(
            "slow-start",
            f"index {oldest.index} is {oldest.phase.value} for {units.format_seconds(waited)}{at}",
            (f"pod {oldest.pod}",),
            _patience(oldest.phase),
        )
    ]


def _gets_ready(last_lines: LastLines) -> list[Finding]:
    """Nodes that install or fetch something; the others wait for them."""
    doing: dict[str, list[int]] = {}
    for index, (_, text) in sorted(last_lines.items()):
        step = step_of(text)
        if step:
            doing.setdefault(re.sub(r" \d+ %$", "", step), []).append(index)
    return [
        Finding(
            kind.replace(" ", "-"),
            f"{kind}: index {', '.join(map(str, indexes))}",
            tuple(last_lines[index][1] for index in indexes[:1]),
            f"its log: {commands.on_job('logs', '--index', str(indexes[0]), '-f')}",
        )
        for kind, indexes in doing.items()
    ]


def _cannot_reach_rank_0(name: str, last_lines: LastLines, now: float) -> list[Finding]:
    """All pods run, and some still look for rank 0: a matter of DNS, network or its process."""
    said = [
        (index, text, waiting.last)
        for index, (time, text) in sorted(last_lines.items())
        if now - time < STALE_AFTER_S and (waiting := WaitingForRank0.read(text)) is not None
    ]
    if not said:
        return []
    index, text, last = said[0]
    if not last.resolved:
        service = commands.kubectl("get", "service", name)
        hint = f"a NetworkPolicy may block DNS, or the Service is gone: {service}"
    elif last.refused:
        its_log = commands.on_job("logs", "--index", "0", "--tail", "50")
        hint = f"rank 0 does not listen: {its_log}"
    else:
        logs = commands.on_job("logs", "--all")
        hint = f"a NetworkPolicy or firewall may keep pods apart; see {logs}"
    return [
        Finding(
            "rank-0-unreachable",
            f"index {index} cannot reach rank 0, which runs: {last.text()}",
            (text,),
            hint,
        )
    ]


def _silent(speaker: int, last_lines: LastLines, now: float) -> list[Finding]:
    """Silence of rank 0, which prints as a rule; the last lines of the others are evidence."""
    first = last_lines.get(speaker)
    if first is None or now - first[0] < SILENT_AFTER_S:
        return []
    said = []
    for index, (time, text) in sorted(last_lines.items()):
        short = re.sub(r"\s+", " ", text).strip()[:200]
        ago = units.format_seconds(max(0.0, now - time))
        said.append(f"index {index}, {ago} ago: {short}")
    return [
        Finding(
            "silent",
            f"index {speaker} has printed nothing for {units.format_seconds(now - first[0])}",
            tuple(said),
            f"compare the ranks: {commands.on_job('logs', '--all', '--tail', '5')}",
        )
    ]
