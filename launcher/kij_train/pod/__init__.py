"""What runs in the pods, and in the local nodes: standard library (and torch), Python 3.8.

It imports nothing of ours but itself. The rest of kij-train takes from it the names and formats
that both ends share. In a pod its files lie in one folder, with those of `gang` where a job
restarts: no two of them have the same name.
"""

from pathlib import Path

BESIDE = tuple(
    Path(__file__).with_name(f"{name}.py")
    for name in (
        "contract",
        "environment",
        "firstprocess",
        "installers",
        "lines",
        "mainprogram",
        "packages",
        "prepare",
        "programs",
        "rank0",
        "records",
        "signals",
        "stacks",
        "status",
        "torchrun",
        "unpack",
        "worker",
    )
)
"""What every pod gets beside bootstrap.py."""
ITEMS = tuple(
    Path(__file__).parent / f"{name}.py"
    for name in (
        "items",
        "itemcall",
        "itemend",
        "itemfork",
        "itemindex",
        "itemlist",
        "itemnodes",
        "itemoutput",
        "itemparts",
        "itemplan",
        "itemrecords",
        "itemrun",
        "itemrunner",
        "itemstudy",
        "results",
        "trials",
        "zygote",
        "gang/processes",
    )
)
"""What the pods of an array get beside that. The first is their first process."""
FIGURES = (Path(__file__).parent / "itemfigures.py",)
"""The same, where the last of them is to send the numbers of all."""
