"""The rendered examples in manifests/: which command makes which file, and how to make them again.

`python -m tests.goldens` writes them; tests/unit/test_render.py compares them. All but the first
leave out the ConfigMap, which is the same but for the code.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from kij_train import render, runs
from kij_train.cli.render import command
from kij_train.spec import ArraySpec
from kij_train.specfile import resolve

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "manifests" / "examples"

GOLDENS = {
    "hello": "--name hello --nodes 2 hello_ranks.py",
    "gpus": "--name train --nodes 8 --gpus 4 --cpu 32 --memory 256Gi hello_ranks.py --lr 3e-4",
    "restricted": "--name safe --nodes 2 --nproc-per-node 2 --memory 4Gi --run-as-user 1000 "
    "-n ml hello_ranks.py",
    "efa": "--name efa --nodes 2 --gpus 8 --profile efa --no-code -m package.train",
    "gke-gib": "--name gib --nodes 2 --gpus 8 --profile gke-gib --no-code -m package.train",
    "ib": "--name ib --nodes 2 --gpus 8 --profile ib --no-code -m package.train",
    "roce": "--name roce --nodes 2 --gpus 8 --profile roce --no-code -m package.train",
    "bought-nodes": "--name bought --nodes 2 --gpus 8 --profile bought-nodes --no-code "
    "-m package.train",
    "tcp": "--name tcp --nodes 2 --gpus 8 --profile tcp --no-code -m package.train",
    "nvlink": "--name nvlink --gpus 8 --profile nvlink --no-code -m package.train",
    "cpu-gloo": "--name gloo --nodes 2 --profile cpu-gloo --no-code -m package.train",
    "mig": "--name mig --nodes 4 --gpus 1 --gpu-kind mig-1g.5gb --no-code -m package.train",
    "dra": "--name dra --nodes 2 --gpus 4 --gpu-kind dra --no-code -m package.train",
    "dra-slice": "--name sliced --gpus 1 --gpu-kind dra:mig-1g.10gb --no-code -m package.train",
    "kueue": "--name queued --nodes 4 --gpus 8 --queue team-a --queue-priority high "
    "--topology rack:required --no-code -m package.train",
    "jobset": "--format jobset --name train --nodes 4 --gpus 8 --restart gang --spares 1 --no-code "
    "-m package.train",
    "trainjob": "--format trainjob --name train --nodes 4 --gpus 8 --memory 256Gi --no-code "
    "-m package.train",
    "volcano": "--name gang --nodes 4 --gpus 8 --scheduler volcano --queue team-a --no-code "
    "-m package.train",
    "coscheduling": "--name gang --nodes 4 --gpus 8 --scheduler coscheduling --topology zone "
    "--spread --no-code -m package.train",
    "native": "--name gang --nodes 4 --gpus 8 --scheduler native --pack --no-code -m package.train",
    "gang-restart": "--name lasting --nodes 8 --spares 1 --gpus 4 --restart gang --max-restarts 20 "
    "--grace 2m hello_ranks.py",
    "elastic": "--name elastic --nodes 5:8 --gpus 8 --restart elastic --no-code -m package.train",
    "packages": "--name tuned --nodes 2 --gpus 8 --with transformers==5.17 --with datasets "
    "--setup 'nvidia-smi -L' --env-from-secret index hello_ranks.py",
    "array": "map --name squares --range 0:1000 --chunk 20 --parallelism 10 --retries 2 "
    "--max-failed 10% --item-timeout 5m --cpu 1 --memory 1Gi square.py {item}",
    "array-results": "map --name scores --range 0:100000 --indexes 50 --slice --gpus 1 "
    "--queue team-a --results pvc:out:/out --start-jitter 1m --no-code -m package.score",
    "sweep-nodes": "sweep --name tune -p lr=1e-3,3e-4 --min loss --nodes 4 --gpus 8 "
    "--parallelism 2 --queue team-a --no-code -m package.train --steps 100",
    "argo": "render --format argo -f ../manifests/pipeline/pipeline.yaml",
    "argo-resource": "render --format argo --name train --nodes 4 --gpus 8 hello_ranks.py",
    "everything": "--name all --nodes 4 --gpus 8 --no-code --image registry.example/train:1.2 "
    "--image-pull-policy Always --image-pull-secret regcred --resource vpc.amazonaws.com/efa=4 "
    "--shm 64Gi --env LR=3e-4 --env 'GREETING=$HOME costs $(MONEY)' --env-from-secret wandb "
    "--mount pvc:data:/data:ro --mount secret:ssh:/ssh --mount configmap:conf:/conf "
    "--mount hostpath:/mnt/nvme:/nvme --mount emptydir:10Gi:/cache "
    "--fetch https://hub.example/model.bin:/model --fetch pvc:weights:/llama:/cache "
    "--cache pvc:kept --disk 80Gi "
    "--node-selector pool=h100 --toleration dedicated=ml:NoSchedule --toleration spot "
    "--priority-class high --service-account trainer --label team=vision --annotation note=a,b "
    "--dns-policy ClusterFirstWithHostNet "
    "--allow-from namespace:monitoring --allow-from 10.0.0.0/8 "
    "--port 29600 --timeout 2h --ttl 1d --backoff 8 --profile tcp -m package.train --resume",
}


def render_golden(name: str) -> list[dict[str, Any]]:
    """The objects of a golden, as the command line makes them."""
    from kij_train.cli.options import flags_layer

    folder = ROOT / "train_examples"
    words = shlex.split(GOLDENS[name])
    if words[0] == "render":
        objects = _workflow(words[1:], folder)
    elif words[0] == "map":
        objects = _array(words[1:], folder).objects()
    elif words[0] == "sweep":
        objects = _trial(words[1:], folder).objects()
    else:
        params = command.make_context("render", words).params
        resolved = resolve(flags_layer(params), environ={}, cwd=folder, profile=params["profile"])
        plan = runs.plan(resolved, cwd=folder, place=runs.OnCluster())
        objects = plan.in_format(params["kind"])
    return [body for body in objects if name == "hello" or body["kind"] != "ConfigMap"]


def _workflow(words: list[str], folder: Path) -> list[dict[str, Any]]:
    """For Argo: of a file with steps, or of one job."""
    from kij_train.cli.options import flags_layer
    from kij_train.cli.workflow import objects_of
    from kij_train.render.formats import argo
    from kij_train.specfile.workflow_file import read_workflow

    params = command.make_context("render", words).params
    if params["spec_file"] is not None:
        file = str(folder / params["spec_file"])
        workflow = read_workflow(file)
        assert workflow is not None
        return objects_of(workflow, None, file)
    resolved = resolve(flags_layer(params), environ={}, cwd=folder)
    plan = runs.plan(resolved, cwd=folder, place=runs.OnCluster())
    return argo.convert(plan.objects(), plan.rendered)


def _array(words: list[str], folder: Path) -> runs.ArrayPlan:
    from kij_train.cli import map as mapping
    from kij_train.cli.options import flags_layer

    params = mapping.command.make_context("map", words).params
    resolved = resolve(flags_layer(params, ArraySpec), environ={}, cwd=folder, model=ArraySpec)
    items = mapping.read_items(resolved)
    return runs.plan_array(resolved, items, cwd=folder, place=runs.OnCluster())


def _trial(words: list[str], folder: Path) -> runs.ArrayPlan:
    """The first one of a sweep whose trials are Jobs."""
    from kij_train.cli import sweep
    from kij_train.cli.options import flags_layer

    params = sweep.command.make_context("sweep", words).params
    layer = flags_layer(params, ArraySpec)
    layer.values["style"] = "flags"
    resolved = resolve(layer, environ={}, cwd=folder, model=ArraySpec)
    items = sweep.trials_of(params["axes"], None, None, "random", 1, 0)
    plan = runs.plan_array(resolved, items, cwd=folder, place=runs.OnCluster())
    return replace(plan, selection=[(0, [0])])


def text(name: str) -> str:
    """A golden file: the command, then its objects."""
    left_out = "" if name == "hello" else "# The ConfigMap with the code is left out here.\n"
    body = render.to_yaml(render_golden(name))
    line = f"render {GOLDENS[name]}"
    command = GOLDENS[name].partition(" ")[0]
    if command == "render":
        line = GOLDENS[name]
    if command in ("map", "sweep"):
        line = GOLDENS[name].replace(command, f"{command} --dry-run client", 1)
    return f"# cd train_examples; kij-train {line}\n{left_out}{body}"


def without_archives(document: str) -> list[dict[str, Any]]:
    """Objects of a golden file without what hangs on the version of liblzma and on the code."""
    objects = [body for body in yaml.safe_load_all(document) if body]
    for body in objects:
        body.pop("binaryData", None)
    return objects


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for golden in GOLDENS:
        (FOLDER / f"{golden}.yaml").write_text(text(golden), encoding="utf-8")
