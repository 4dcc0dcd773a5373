"""The launcher on real pods: ranks, code, users, secrets, failures, and the wait for rank 0."""

from __future__ import annotations

import base64
import copy
import json
import lzma
import re
import secrets
from pathlib import Path
from typing import Any

import pytest
from kij_train import names, pod, render, runs
from kij_train.cluster import Cluster
from kij_train.errors import JobFailedError
from kij_train.pod import bootstrap, contract
from kij_train.spec import JobSpec

from tests.kube import ROOT, Namespace
from tests.mainprogram import HELPER, ORPHANS, PROBE

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}

RANKS = """
import os
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank()])
dist.all_reduce(total)
seen = [None] * dist.get_world_size()
mine = (dist.get_rank(), int(os.environ["NODE_RANK"]), os.environ["KIJ_NODE_NAME"])
dist.all_gather_object(seen, mine)
if dist.get_rank() == 0:
    print("total", total.item())
    for line in seen:
        print("seen", *line)
dist.destroy_process_group()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def launch(
    ns: Namespace, project: Path, image: str, *argv: str, timeout_s: float = 280
) -> tuple[int, str, str]:
    """Run to the end, attached."""
    result = ns.kij_train(
        "launch", "--image", image, "--timeout", "4m", *argv, cwd=project, timeout_s=timeout_s
    )
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize(("nodes", "nproc"), [(4, 1), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_ranks_follow_completion_indexes_and_all_reduce_is_right(
    ns: Namespace, project: Path, image: str, nodes: int, nproc: int
) -> None:
    (project / "train.py").write_text(RANKS)
    argv = ["--nodes", str(nodes), "--nproc-per-node", str(nproc), "train.py"]
    code, out, err = launch(ns, project, image, *argv)
    assert code == 0, err
    world = nodes * nproc
    assert f"total {sum(range(world))}" in out
    seen = re.findall(r"^seen (\d+) (\d+) (\S+)$", out, re.MULTILINE)
    assert [(int(rank), int(index)) for rank, index, _ in seen] == [
        (rank, rank // nproc) for rank in range(world)
    ]
    if nodes == 4:
        assert len({node for _, _, node in seen}) > 1, "not spread over several nodes"


NOISE_BYTES = 500_000


def test_code_of_several_chunks_arrives_whole(
    ns: Namespace, project: Path, small_image: str
) -> None:
    (project / "noise.bin").write_bytes(secrets.token_bytes(NOISE_BYTES))
    (project / "sub").mkdir()
    (project / "sub/run.sh").write_text("#!/bin/sh\nwc -c < noise.bin\n")
    (project / "sub/run.sh").chmod(0o755)
    objects = without_torchrun(project, ns, small_image, "sub/run.sh")
    assert sum(body["kind"] == "ConfigMap" for body in objects) > 2
    assert run_objects(ns, objects)[0].strip() == str(NOISE_BYTES)


@pytest.mark.labels(RESTRICTED)
def test_a_restricted_namespace_runs_a_root_image_as_another_user_read_only(
    ns: Namespace, project: Path, image: str
) -> None:
    (project / "train.py").write_text(
        RANKS + "open('checkpoint', 'w').close(); import getpass, tempfile, pathlib\n"
        "tempfile.NamedTemporaryFile().close(); (pathlib.Path.home() / 'cache').touch()\n"
        "print('user', os.getuid(), getpass.getuser(), os.access('/', os.W_OK))\n"
    )
    (project / "job.yaml").write_text("read_only_root: true\nrun_as_user: 1000\n")
    code, out, err = launch(ns, project, image, "-f", "job.yaml", "--nodes", "2", "train.py")
    assert code == 0, err
    assert re.search(r"^user 1000 \S+ False$", out, re.MULTILINE)


def test_a_failing_rank_is_named_with_its_traceback(
    ns: Namespace, project: Path, image: str
) -> None:
    (project / "train.py").write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "dist.barrier()\n"
        "def step(rank):\n"
        "    if rank == 3: raise ValueError('bad batch')\n"
        "step(dist.get_rank())\n"
        "dist.all_reduce(torch.ones(1))\n"
    )
    code, _, err = launch(ns, project, image, "--nodes", "4", "train.py")
    assert code == 1
    verdict = err.partition("failed after ")[2]
    assert re.search(r"rank 3 \(index 3, pod train-\w+-3-\w+, machine \S+\) was first", err)
    assert "ValueError: bad batch" in verdict
    assert re.search(r"[123] other nodes? failed after it", verdict)
    assert err.rstrip().splitlines()[-1].strip().startswith("log: kij-train logs train-")
    assert 'train.py", line 5, in step' in verdict
    (name,) = re.findall(r"pod (train-\w+)-3-", err)
    report = ns.kij_train("report", name, "--format", "markdown", cwd=project)
    assert (report.returncode, "at `train.py:5`" in report.stdout) == (1, True)


def test_a_script_in_a_pod_sees_what_python_shows_it(
    ns: Namespace, project: Path, small_image: str
) -> None:
    (project / "src").mkdir()
    (project / "src/train.py").write_text(PROBE)
    (project / "src/helper.py").write_text(HELPER)
    (project / "src/queue.py").touch()
    rank = f"{contract.BUNDLE_DIR}/worker.py {contract.WORKER}"
    line = f"python3 -u src/train.py x && RANK=0 python3 -u {rank} src/train.py x"
    argv = ["--no-torchrun", "--no-python", "sh", "-c", line]
    code, out, err = launch(ns, project, small_image, *argv)
    assert code == 0, err
    plain, in_a_pod = (json.loads(text) for text in re.findall(r"^{.*}$", out, re.MULTILINE))
    assert in_a_pod == plain


CRASH = """
import signal, sys
print("job", os.environ["KIJ_JOB"], os.environ["TORCHELASTIC_RUN_ID"])
def kernel():
    os.kill(os.getpid(), signal.SIGSEGV)
sys.stdout.write("calling the kernel ...")
kernel()
"""


def test_orphans_are_reaped_and_a_crash_is_told_with_its_last_words_and_its_stack(
    ns: Namespace, project: Path, image: str
) -> None:
    (project / "train.py").write_text(ORPHANS + CRASH)
    code, out, err = launch(ns, project, image, "--name", "job", "train.py")
    assert code == 1
    assert "zombies 0\njob job job\n" in out
    assert "calling the kernel ..." in out
    assert "rank 0 was killed by SIGSEGV" in err
    assert re.search(r'train.py", line \d+, in kernel', err)


def test_a_program_runs_once_a_rank(ns: Namespace, project: Path, image: str) -> None:
    (project / "run.sh").write_text("#!/bin/sh\necho program $RANK of $WORLD_SIZE\n")
    (project / "run.sh").chmod(0o755)
    code, out, err = launch(
        ns, project, image, "--nproc-per-node", "2", "--no-python", "./run.sh", "$(RANK)"
    )
    assert code == 0, err
    assert sorted(re.findall("^program.*", out, re.MULTILINE)) == [
        "program 0 of 2",
        "program 1 of 2",
    ]


def test_a_secret_reaches_the_ranks_and_nothing_else_shows_it(
    ns: Namespace, project: Path, image: str
) -> None:
    value = "s3cr3t-" + secrets.token_hex(8)
    ns.core.create_namespaced_secret(
        ns.name, {"metadata": {"name": "wandb"}, "stringData": {"WANDB_KEY": value}}
    )
    (project / "train.py").write_text(
        f"import os; print('same', os.environ['WANDB_KEY'][::-1] == {value[::-1]!r})\n"
    )
    code, out, err = launch(ns, project, image, "--env-from-secret", "wandb", "train.py")
    assert code == 0, err
    assert "same True" in out
    pods = ns.core.list_namespaced_pod(ns.name)
    logs = [ns.core.read_namespaced_pod_log(pod.metadata.name, ns.name) for pod in pods.items]
    assert any("same True" in log for log in logs)
    shown = [ns.batch.list_namespaced_job(ns.name), pods, ns.core.list_namespaced_event(ns.name)]
    for text in (out, err, *logs, *map(str, shown)):
        assert value not in text
    for config_map in ns.core.list_namespaced_config_map(ns.name).items:
        assert value not in str(config_map.data)
        for chunk in (config_map.binary_data or {}).values():
            assert value.encode() not in unpacked(chunk)


def unpacked(chunk: str) -> bytes:
    """A chunk of code as it is stored, without its compression."""
    return lzma.LZMADecompressor().decompress(base64.b64decode(chunk))


# --- the wait for rank 0 --------------------------------------------------------------------------


def with_rank0(objects: list[dict[str, Any]], shell: str) -> list[dict[str, Any]]:
    """The objects, with a shell command before the bootstrap of index 0."""
    objects = copy.deepcopy(objects)
    container = objects[-1]["spec"]["template"]["spec"]["containers"][0]
    line = f'if [ "$NODE_RANK" = 0 ]; then {shell}; fi; exec "$@"'
    container["command"] = ["sh", "-c", line, "sh", *container["command"]]
    return objects


def objects_of(project: Path, ns: Namespace, image: str, script: str, **fields: Any) -> Any:
    from kij_train.code import bundle

    archive = bundle.pack(project)
    source = Path(bootstrap.__file__).read_text(encoding="utf-8")
    spec = JobSpec(script=script, image=image, namespace=ns.name, timeout=240, **fields)
    beside = {file.name: file.read_text(encoding="utf-8") for file in pod.BESIDE}
    code = render.Code(source, archive.packed, archive.sha256, more=beside)
    return render.render(spec, name="job", code=code)


def run_objects(ns: Namespace, objects: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """Submit and follow; the log of index 0 and the status lines. Raises JobFailedError."""
    cluster = Cluster.connect(kubeconfig=ns.kubeconfig, context=None, namespace=ns.name)
    lines: list[str] = []
    said: list[str] = []
    runs.OnCluster().submit(cluster, objects, None).follow(
        on_line=lambda line: lines.append(line.text),
        on_change=lambda observed: None,
        on_note=said.append,
    )
    return "\n".join(line for line in lines if not line.startswith("kij-train: ")), said


def without_torchrun(project: Path, ns: Namespace, image: str, program: str) -> Any:
    """A job whose ranks are programs, on an image without torch.

    The code brings a package that stands for torch: rank 0 listens until all have been there.
    """
    package = project / "stub/torch/distributed"
    (package / "elastic/multiprocessing/errors").mkdir(parents=True)
    for folder in (
        package.parent,
        package,
        package / "elastic",
        package / "elastic/multiprocessing",
    ):
        (folder / "__init__.py").touch()
    (package / "elastic/multiprocessing/errors/__init__.py").write_text(
        "class ChildFailedError(Exception): pass\n"
    )
    (package / "elastic/multiprocessing/api.py").write_text(
        "class SignalException(Exception): pass\n"
    )
    (package / "run.py").write_text(STUB_TORCHRUN.format(program=program))
    env = {"PYTHONPATH": f"{contract.WORK_DIR}/code/stub"}
    return objects_of(project, ns, image, "train.py", env=env)


STUB_TORCHRUN = """
import os, socket, subprocess, time
def parse_args(args): return args
def run(args):
    nnodes = int(os.environ["NNODES"])
    if os.environ["NODE_RANK"] == "0" and nnodes > 1:
        came = set()
        place, dual = ("", int(os.environ["MASTER_PORT"])), socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        with socket.create_server(
            place, family=family, dualstack_ipv6=dual, backlog=256
        ) as server:
            while len(came) < nnodes - 1:
                peer, address = server.accept()
                came.add(address[0])
                peer.close()
        print("all", len(came) + 1, "came")
    subprocess.run([{program!r}], check=True)
"""


def test_rank_0_starting_late_does_not_hurt(ns: Namespace, project: Path, image: str) -> None:
    (project / "train.py").write_text(RANKS)
    objects = with_rank0(objects_of(project, ns, image, "train.py", nodes=2), "sleep 20")
    out, _ = run_objects(ns, objects)
    assert "total 1" in out


def test_rank_0_never_starting_ends_in_a_clear_message(
    ns: Namespace, project: Path, image: str
) -> None:
    (project / "train.py").write_text(RANKS)
    objects = objects_of(project, ns, image, "train.py", nodes=2, rendezvous_timeout=15)
    with pytest.raises(JobFailedError) as caught:
        run_objects(ns, with_rank0(objects, "exec sleep 600"))
    message = str(caught.value)
    assert re.search(r"rank 0 never came: tried job-0\.job port 29500 for \d\d s", message), message
    # Refused as a rule; a busy machine may be silent instead.
    assert re.search(r"its torchrun does not listen|\) does not answer", message), message
    assert "index 1" in message


def test_64_pods_that_start_at_once_all_find_rank_0(
    ns: Namespace, project: Path, small_image: str
) -> None:
    objects = without_torchrun(project, ns, small_image, "true")
    job = objects[-1]["spec"]
    job["completions"] = job["parallelism"] = 64
    for variable in job["template"]["spec"]["containers"][0]["env"]:
        if variable["name"] in (contract.ENV_NNODES, contract.ENV_WORLD_SIZE):
            variable["value"] = "64"
    out, said = run_objects(ns, objects)
    assert "all 64 came" in out, said
    pods = ns.core.list_namespaced_pod(ns.name, label_selector=f"{names.LABEL_JOB_NAME}=job").items
    assert {pod.status.phase for pod in pods} == {"Succeeded"}


def test_the_example_trains_on_four_pods_with_its_checkpoint_on_a_shared_volume(
    ns: Namespace, image: str, shared_folder: str
) -> None:
    script = ["char_gpt_ddp.py", "--steps", "60", "--batch", "4", "--width", "32", "--layers", "1"]
    code, out, err = launch(
        ns,
        ROOT / "train_examples",
        image,
        "--nodes",
        "4",
        "--mount",
        f"hostpath:{shared_folder}:/out",
        *script,
        "--out",
        f"/out/{ns.name}",
    )
    assert code == 0, err
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", out)]
    assert losses[-1] < losses[0] - 0.5
    code, out, err = launch(
        ns,
        ROOT / "train_examples",
        image,
        "--nodes",
        "2",
        "--mount",
        f"hostpath:{shared_folder}:/out",
        *script,
        "--out",
        f"/out/{ns.name}",
        "--steps",
        "80",
    )
    assert code == 0, err
    assert "resumed at step 60" in out
