"""What a job that restarts has spent its time on, from what its nodes say."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from kij_train.diagnosis.jobview import Object
from kij_train.pod.gang import History


def accounts_now(said: str, now: float) -> History | None:
    """From the file that a running node keeps; the time since then counts. None for no such file.

    `now` in seconds since the epoch, by the clock of the node.
    """
    try:
        news = json.loads(said)
        history = History.read(news["history"])
        spent = max(0.0, now - float(news["since"]))
        attribute = f"{news['state']}_s"
        setattr(history, attribute, getattr(history, attribute) + spent)
        history.again_s += float(news.get("again_s", 0.0))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return history


def accounts_at_the_end(pods: Iterable[Object]) -> History | None:
    """From the termination messages; None where no node has left any."""
    found = []
    for pod in pods:
        for container in pod.get("status", {}).get("containerStatuses") or []:
            text = (container.get("state", {}).get("terminated") or {}).get("message") or ""
            try:
                found.append(History.read(json.loads(text)["kij"]["accounts"]))
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
    return max(found, key=lambda history: history.rounds, default=None)


def accounts_as_json(history: History) -> dict[str, Any]:
    """For scripts: seconds, restarts, goodput from 0 to 1, whose places were taken by whom at the
    last losses, and what machines cost.

    againSeconds are those of trainingSeconds in which steps were trained again, and step is the
    highest: null where the script does not say its step.
    """
    return {
        "trainingSeconds": round(history.training_s, 3),
        "waitingSeconds": round(history.waiting_s, 3),
        "restartingSeconds": round(history.restarting_s, 3),
        "goodput": round(history.goodput, 4),
        "againSeconds": None if history.step is None else round(history.again_s, 3),
        "step": history.step,
        "restarts": max(0, history.rounds - 1),
        "failures": history.failures,
        "slow": [
            {
                "rank": one.rank,
                "index": one.node,
                "node": one.machine,
                "text": one.text,
                "round": one.round,
                "step": one.step,
                "sinceSeconds": round(one.since_s, 3),
                "lastedSeconds": round(one.lasted_s, 3),
                "isNow": one.is_now,
            }
            for one in history.slow
        ],
        "places": [{"lost": lost, "by": by} for lost, by in history.taken],
        "blame": [
            {"node": machine, "restarts": int(count), "seconds": round(seconds, 3)}
            for machine, (count, seconds) in history.worst()
        ],
    }
