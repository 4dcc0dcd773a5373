"""launch --again: the request of a job that is on the cluster, for flags to go on top of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kij_train import runs
from kij_train.cli import output
from kij_train.cli.where import address, connect
from kij_train.errors import RequestError
from kij_train.names import REQUEST
from kij_train.spec import values_of
from kij_train.specfile import Layer, Origin

NEW_PACKAGES = "they or the image are others, or what was installed is not known any more"


def layer_of(name: str, params: dict[str, Any], *, replace: bool) -> Layer:
    """What the job was launched with. `params` are those of launch. Raises RequestError.

    To `replace` it, the new one has its name; else a name is made, unless a flag gives one.
    """
    from kij_train import jobs

    for flag, given in (("--file", params["spec_file"]), ("--profile", params["profile"])):
        if given:
            again = address(params).command("launch", "--again", name, "--nodes", "4")
            raise RequestError(
                f"{flag} conflicts with --again: the values of {name} were whole already",
                hints=(f"flags go on top of them: {again}",),
            )
    cluster = connect(params)
    job = jobs.get(cluster, name)
    if job.array is not None:
        raise RequestError(
            f"{name} is of the array {job.array}, which launch does not make",
            hints=(f"what failed of it: {cluster.address.on_job('rerun', job.array, '--failed')}",),
        )
    values = values_of(job.raw)
    if values is None:
        raise RequestError(
            f"{name} does not say how it was launched: it has no annotation {REQUEST}, which "
            "requests of more than 16 KiB lack, and those of older versions",
            hints=("launch it with its flags: kij-train launch --help",),
        )
    if replace:
        values["name"] = name
    output.status(f"as {name} was launched, with the code of now")
    origin = Origin(f"job {name}")
    return Layer(values, {(field,): origin for field in values})


def with_its_packages(plan: runs.Plan, name: str, params: dict[str, Any]) -> runs.Plan:
    """The plan, with the versions of packages that the job has installed, if it asks for the same.

    `params` are those of launch.
    """
    from kij_train import jobs
    from kij_train.jobs import packages

    if plan.packages is None or plan.packages.locked:
        return plan
    cluster = connect(params)
    lock = packages.of_the_same(cluster, jobs.get(cluster, name), plan.packages, plan.spec.image)
    if lock is None:
        output.status(f"the versions of packages are looked up anew: {NEW_PACKAGES}")
        return plan
    return replace(plan, lock=lock)
