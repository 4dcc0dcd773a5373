"""What an evaluation comes to, for people: metrics, gates, the verdict."""

from __future__ import annotations

from kij_train.arrays import evalreport, evaluation, gates, judged
from kij_train.arrays.evaluation import Evaluation
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.view import Live, outcomes_of
from kij_train.cli import output

RERUN = "run the rest, and judge again: kij-train rerun {name} --failed"


def tell_evaluation(folder: ArrayFolder, live: Live | None = None) -> int:
    """Print what an evaluation comes to; 0 passed, 1 failed, 6 undecided."""
    found = judged.evaluation_in(folder, live)
    print_evaluation(found)
    hints = () if found.is_whole else (RERUN.format(name=folder.name),)
    output.verdict(evalreport.headline(found), hints)
    return gates.exit_code(found.verdict)


def print_evaluation(found: Evaluation) -> None:
    """The tables."""
    for header, rows in (
        evalreport.metrics_table(found),
        evalreport.gates_table(found.judged),
        evalreport.worst_table(found),
    ):
        if rows:
            output.data("")
            output.table(header, rows)


def tell_noise(first: ArrayFolder, second: ArrayFolder) -> None:
    """Print how two runs of the same evaluation differ."""
    scores = [evaluation.scores_of(outcomes_of(folder))[0] for folder in (first, second)]
    noise = evaluation.noise_of(scores[0], scores[1])
    output.data("")
    output.table(*evalreport.noise_table(noise))
    changed = [one.metric for one in noise if one.changed]
    if not noise:
        output.verdict("the two runs have no metric in common")
    elif changed:
        output.verdict(f"the two runs differ in {', '.join(changed)}: that much is noise")
    else:
        output.verdict("the two runs have the same values for every id")
