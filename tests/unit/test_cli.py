"""The command line from outside: its surface, what it imports, and how it refuses."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import zipapp
from collections.abc import Iterator
from pathlib import Path

import click
import jsonschema
import pytest
import yaml
from kij_train.cli import main
from kij_train.cli.app import COMMANDS, app
from kij_train.cli.options import spec_options
from kij_train.code import bundle
from kij_train.spec import DEFAULT_IMAGE, JobSpec

SURFACE = Path(__file__).parent / "cli_surface.json"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project folder with a script, as the working directory."""
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    (folder / "train.py").write_text("print(1)\n")
    monkeypatch.chdir(folder)
    yield folder


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# --- surface and imports --------------------------------------------------------------------------


def surface() -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {}

    def look(group: click.Group, prefix: str) -> None:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            found[prefix + name] = {
                (parameter.name or ""): sorted([*parameter.opts, *parameter.secondary_opts])
                for parameter in command.params
            }
            if isinstance(command, click.Group):
                look(command, f"{prefix}{name} ")

    look(app, "")
    return found


def test_the_surface_is_frozen() -> None:
    """A changed flag breaks scripts: change the file with it, and say so in the CHANGELOG."""
    assert surface() == json.loads(SURFACE.read_text()), json.dumps(surface(), indent=1)


ISSUED_FLAGS = """--nodes --gpus --nproc-per-node --name --image --image-pull-policy --namespace -n
--context --kubeconfig --cpu --memory --shm --resource --env --env-from-secret --mount
--node-selector --toleration --label --annotation --priority-class --service-account --run-as-user
--image-pull-secret --port --timeout --ttl --backoff --profile --code-dir --no-code --local --detach
-d --replace --dry-run --file -f --output -o -m --no-python"""


def test_every_promised_flag_is_there() -> None:
    flags = {flag for flags in surface()["launch"].values() for flag in flags}
    assert set(ISSUED_FLAGS.split()) <= flags


@pytest.mark.parametrize("argv", [["--help"], ["launch", "--help"], ["render", "train.py"]])
def test_neither_kubernetes_nor_torch_is_imported_without_need(argv: list[str]) -> None:
    probe = (
        "import sys; from kij_train.cli import main\n"
        f"code = main({argv!r})\n"
        "heavy = {'kubernetes', 'torch', 'requests', 'rich', 'psutil'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_top_level_help_does_not_even_import_the_spec() -> None:
    probe = (
        "import sys; from kij_train.cli import main; main(['--help'])\n"
        "sys.exit('pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


@pytest.mark.parametrize("argv", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_of_every_command_fits_a_terminal(
    capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    code, out, _ = run(capsys, *argv)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 100


def test_without_a_command_there_is_help_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert "Commands:" in err


# --- bad input ------------------------------------------------------------------------------------

REFUSED = [
    ("launch nope.py", "script nope.py: no such file", ""),
    ("launch sub", "script sub: is a folder", ""),
    ("launch", "nothing to run: name a script", ""),
    ("launch ../other.py", "script ../other.py is outside of the code folder", "--code-dir"),
    ("launch --code-dir none train.py", "none: no such folder", ""),
    ("render --nodes 0 train.py", "--nodes 0 must be at least 1", ""),
    ("render --nodes -1 train.py", "--nodes -1 must be at least 1", ""),
    ("render --nodes two train.py", "--nodes two is no whole number", ""),
    ("render --nodes 1.5 train.py", "--nodes 1.5 is no whole number", ""),
    ("render --gpus 0 train.py", "--gpus 0 must be at least 1", ""),
    ("render --gpus -4 train.py", "--gpus -4 must be at least 1", ""),
    ("render --memory 16gb train.py", "Did you mean 16Gi (binary) or 16G (decimal)?", ""),
    ("render --memory 16GB train.py", "Did you mean 16Gi (binary) or 16G (decimal)?", ""),
    ("render --cpu 0 train.py", "--cpu 0 must be more than zero", ""),
    ("render --gpus 4 --nproc-per-node 2 train.py", "--nproc-per-node 2 conflicts with 4", ""),
    ("render --env FOO train.py", "--env FOO: must look like KEY=VALUE", ""),
    ("render --env =x train.py", "--env =x: must look like KEY=VALUE", ""),
    ("render --env NODE_RANK=1 train.py", "NODE_RANK is set by kij-train itself", ""),
    ("render --name My_Job train.py", "Did you mean my-job?", ""),
    (f"render --nodes 9999 --name {'a' * 60} train.py", "is too long by 2", ""),
    ("render --label a/b/c=d train.py", "--label: 'a/b/c': the part before '/'", ""),
    ("render --resource gpu=1 train.py", "gpu is no extended resource", ""),
    ("render --resource nvidia.com/gpu=1 train.py", "has its own flag: --gpus", ""),
    ("render --mount pvc:data train.py", "must look like pvc:NAME:/path[:ro]", ""),
    ("render --mount pvc:d:/dev/shm train.py", "Set its size with --shm", ""),
    ("render --mount nfs:d:/x train.py", "must be one of: pvc:NAME:/path", ""),
    ("render --toleration a=b:Never train.py", "must be one of NoSchedule", ""),
    ("render --run-as-user 0 train.py", "--run-as-user 0 must be at least 1", ""),
    ("render --timeout soon train.py", "is no duration. Write it like", ""),
    ("render --port 80 train.py", "--port 80 must be at least 1024", ""),
    (
        "render --profile tpc train.py",
        'Did you mean "tcp"?',
        "profiles: bought-nodes, cpu-gloo, efa",
    ),
    ("render --gpu-kind big train.py", "--gpu-kind big must be one of whole, shared", ""),
    ("render --gpu-kind mig-1g train.py", "must say how large the MIG slice is", ""),
    ("render --gpus 2 --gpu-kind shared train.py", "NCCL refuses two ranks on one", ""),
    ("render --gpus 1 --nodes 2 --gpu-kind shared train.py", "needs --spread with several", ""),
    ("render --resource nvidia.com/mig-1g.5gb=1 train.py", "--gpus with --gpu-kind", ""),
    ("render --resource amd.com/gpu=1 train.py", "--gpus with --gpu-kind amd", ""),
    ("render --scheduler slurm train.py", "must be one of volcano, coscheduling, native", ""),
    ("render --scheduler native --queue a train.py", "--scheduler native conflicts with --q", ""),
    ("render --queue Team_A train.py", "--queue Team_A can be no LocalQueue", ""),
    ("render --topology rack:maybe train.py", "must end with :required or :preferred", ""),
    ("render --spread --pack train.py", "--pack conflicts with --spread", ""),
    ("render --spread --topology host train.py", "one host cannot hold them apart", ""),
    ("render --dns-policy None train.py", "--dns-policy None must be one of ClusterFirst, ", ""),
    ("render --dns-policy Default train.py", "the machine, which does not know MASTER_ADDR", ""),
    ("render --no-torchrun --nproc-per-node 2 train.py", "is torchrun's, which the job does", ""),
    ("render --no-torchrun --preflight train.py", "--preflight", "needs a script or module"),
    ("profiles show tpc", 'Did you mean "tcp"?', "profiles: bought-nodes, cpu-gloo"),
    ("profiles show none.toml", "--profile none.toml: no such file", ""),
    ("bench allreduc", "No such command 'allreduc'", ""),
    ("render -f none.yaml", "cannot read none.yaml", ""),
    ("render -m", "-m needs a name behind it", ""),
    ("render -m a/b.py", "is no module name", ""),
    ("render -m --no-python x", "-m and --no-python conflict", ""),
    ("launch --local --detach train.py", "a local run ends with its command", "nohup kij-train"),
    ("launch --as-shipped train.py", "--as-shipped goes with --local", ""),
    ("launch --local --as-shipped --no-code train.py", "conflicts with --no-code", ""),
    ("render --list-code --no-code train.py", "--no-code ships nothing", ""),
    ("launch --dry-run", "--dry-run needs a value: client or server", "such as: --dry-run=client"),
    ("launch --dry-run train.py", "'train.py' is not one of", "such as: --dry-run=client"),
    ("launch --nodes", "--nodes needs a value: N", "see: kij-train launch --help"),
    ("status a -o", "-o needs a value: text or json", "such as: -o text"),
    ("bench allreduce -b", "-b needs a value: SIZE", "see: kij-train bench allreduce --help"),
    ("launch --local=yes train.py", "'--local' does not take a value", "see: kij-train launch"),
    ("launch --nods 3 train.py", "No such option '--nods'", "see: kij-train launch --help"),
    ("train.py --lr 1", "Did you mean: kij-train launch train.py --lr 1", ""),
    ("lanch train.py", "Did you mean: kij-train launch", ""),
    ("help lanch", "Did you mean: kij-train launch", "see: kij-train --help"),
    ("help status x", "kij-train status has no commands: x", "see: kij-train status --help"),
    ("launch train.py --help", "it would be the script's", "kij-train's: kij-train launch --help"),
    ("launch --nodes 2 train.py -h", "on every node of the job", "python train.py -h"),
    ("launch -m pkg --help", "--help stands behind pkg", "python -m pkg --help"),
    ("launch --no-python ./x --help", "--help stands behind ./x", "on this machine: ./x --help"),
]


@pytest.mark.parametrize(("line", "message", "hint"), REFUSED)
def test_bad_input_gets_one_error_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], project: Path, line: str, message: str, hint: str
) -> None:
    (project.parent / "other.py").touch()
    code, out, err = run(capsys, *line.split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert hint in err
    assert "Traceback" not in err


def test_an_ignored_script_is_not_lost_silently(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    (project / ".gitignore").write_text("train.py\n")
    code, _, err = run(capsys, "render", "train.py")
    assert code == 2
    assert "train.py is left out of the code by .gitignore" in err
    assert "echo '!/train.py' >> .kijignore" in err


def test_the_lines_that_bring_back_a_script_of_an_ignored_folder_work(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    (project / "build/deep").mkdir(parents=True)
    for name in ("build/x.py", "build/deep/t.py", "build/deep/y.py"):
        (project / name).touch()
    (project / ".gitignore").write_text("build/\n")
    code, _, err = run(capsys, "render", "build/deep/t.py")
    assert code == 2
    subprocess.run(err.rpartition("bring it back: ")[2], shell=True, check=True)
    code, _, err = run(capsys, "render", "build/deep/t.py")
    assert code == 0
    assert err.startswith("not shipped, since git ignores it: 2 files, 0 B")
    shipped = bundle.pack(project).files
    assert shipped == (".gitignore", ".kijignore", "build/deep/t.py", "train.py")


@pytest.mark.parametrize("script", ["sub", "sub/app.pyz"])
def test_a_folder_or_an_archive_can_be_the_script_as_for_python(
    capsys: pytest.CaptureFixture[str], project: Path, script: str
) -> None:
    (project / "sub/__main__.py").touch()
    zipapp.create_archive(project / "sub", project / "sub/app.pyz")
    code, out, err = run(capsys, "render", "--name", "job", script)
    assert (code, err) == (0, "")
    assert f"args:\n            - {script}\n" in out
    (project / ".kijignore").write_text("__main__.py\n*.pyz\n")
    code, _, err = run(capsys, "render", "--name", "job", script)
    assert code == 2
    assert "is left out of the code by" in err


@pytest.mark.parametrize("line", ["render train.py", "launch --dry-run=client train.py"])
def test_what_is_left_out_of_the_code_is_said(
    capsys: pytest.CaptureFixture[str], project: Path, line: str
) -> None:
    (project / ".env").write_text("A=b")
    code, _, err = run(capsys, *line.split())
    assert code == 0
    back = "echo '!/.env' >> .kijignore"
    assert err == f"warning: left out .env: it looks like a secret; to ship it: {back}\n"


def test_what_git_keeps_back_is_one_line(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    (project / "data").mkdir()
    for name, size in (("data/train.bin", 300_000), ("data/val.bin", 1000), ("a.log", 10)):
        (project / name).write_bytes(b"x" * size)
    (project / ".gitignore").write_text("data/\n*.log\n")
    code, _, err = run(capsys, "render", "train.py")
    assert (code, err.count("\n")) == (0, 1)
    assert "3 files, 294 KiB, the biggest data/train.bin (293 KiB)" in err
    assert "kij-train render --list-code" in err


def test_list_code_prints_what_ships_and_why_the_rest_does_not(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    for name in (".env", "a.log", "b.log", "model.ckpt"):
        (project / name).touch()
    (project / ".gitignore").write_text("*.log\n")
    (project / "key.py").write_text("KEY = 'hf_abcdefghijklmnopqrstuvwxyzABCDEFGH'\n")
    (project / ".kijignore").write_text("b.log\n")
    code, out, err = run(capsys, "render", "--list-code")
    assert (code, out.split()) == (0, [".gitignore", ".kijignore", "train.py"])
    assert err.splitlines() == [
        "not shipped: .env (1 file, 0 B): it looks like a secret",
        "not shipped: a.log (1 file, 0 B): .gitignore",
        "not shipped: b.log (1 file, 0 B): .kijignore",
        "not shipped: key.py (1 file, 46 B): it holds a Hugging Face token",
        "not shipped: model.ckpt (1 file, 0 B): output of earlier runs",
        "ships 3 files, 21 B",
    ]


def test_list_code_has_a_line_a_file_whatever_its_name(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    (project / "a\nb.py").touch()
    (project / "a\n.env").touch()
    code, out, err = run(capsys, "render", "--list-code")
    assert (code, out.splitlines()) == (0, [r'"a\nb.py"', "train.py"])
    assert err.splitlines()[0].startswith(r'not shipped: "a\n.env" (')


def test_as_shipped_a_full_folder_for_temporary_files_is_named_with_the_way_out(
    capsys: pytest.CaptureFixture[str],
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (project / "large.py").write_text("#" * 200_000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        code, _, err = run(capsys, "launch", "--local", "--as-shipped", "train.py")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    assert (
        f"cannot unpack the code below {tmp_path}, the folder for temporary files: File too" in err
    )
    assert "TMPDIR=/PATH kij-train launch --local" in err
    assert sorted(tmp_path.iterdir()) == [project]


def test_a_script_that_holds_a_token_is_refused_with_the_better_way(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    token = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"
    (project / "train.py").write_text(f"KEY = '{token}'\n")
    code, out, err = run(capsys, "render", "train.py")
    assert (code, out) == (2, "")
    assert "train.py holds a Hugging Face token" in err
    assert "--env-from-secret NAME" in err
    assert token not in err
    subprocess.run(err.rpartition("bring it back: ")[2], shell=True, check=True)
    code, _, err = run(capsys, "render", "train.py")
    assert code == 0
    assert "warning: ships train.py, which holds a Hugging Face token" in err


def test_a_variable_that_sets_nothing_is_warned_about(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIJ_NODE", "3")
    code, _, err = run(capsys, "config", "train.py")
    assert code == 0
    assert err == 'warning: KIJ_NODE is no setting. Did you mean "KIJ_NODES"?\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: 2\n", "job.yaml: nothing to run: name a script"),
        ("nodes: 2\nscript: nope.py\n", "job.yaml:2: script nope.py: no such file"),
        ("script: sub\n", "job.yaml:1: script sub: is a folder"),
        ("script: ../other.py\n", "job.yaml:1: script ../other.py is outside of the code folder"),
    ],
)
def test_a_files_script_that_is_not_there_is_named_with_the_file(
    capsys: pytest.CaptureFixture[str], project: Path, text: str, message: str
) -> None:
    (project.parent / "other.py").touch()
    (project / "job.yaml").write_text(text)
    code, _, err = run(capsys, "render", "-f", "job.yaml")
    assert code == 2
    assert err.startswith(f"error: {message}")


@pytest.mark.parametrize(("name", "value"), [("HF_TOKEN", "abc"), ("X", "hf_abcdefghijklmnopqrst")])
def test_a_literal_secret_is_warned_about_and_config_hides_it(
    capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    code, out, err = run(capsys, "config", "--env", f"{name}={value}", "train.py")
    assert code == 0
    assert f"warning: --env {name}: its value looks like a secret" in err
    assert "--env-from-secret" in err
    assert value not in out + err


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("train.py --token {}", "command line: --token"),
        ("train.py --lr 1 {}", "command line: argument 3"),
        ("--annotation example.com/note={} train.py", "--annotation example.com/note"),
        ("--label note={} train.py", "--label note"),
    ],
)
def test_secrets_in_arguments_labels_and_annotations_are_warned_about_and_hidden(
    capsys: pytest.CaptureFixture[str], line: str, where: str
) -> None:
    token = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"
    code, out, err = run(capsys, "config", *line.format(token).split())
    assert code == 0
    assert f"warning: {where}: its value looks like a secret" in err
    assert "--env-from-secret" in err
    assert token not in out + err


def test_our_flags_behind_the_script_are_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "render", "train.py", "--nodes", "4")
    assert code == 0
    assert "--nodes stands behind the script, so the script gets it" in err
    assert '"--nodes"' in out


def test_help_of_a_command_is_what_its_flag_says(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["launch"], ["bench", "allreduce"], []):
        assert run(capsys, "help", *words) == run(capsys, *words, "--help")


def test_the_version_is_a_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "version") == run(capsys, "--version")


@pytest.mark.parametrize(
    ("line", "warns"),
    [
        ("--nodes 2 --gpus 1", True),
        ("--nodes 2 --resource rdma/ib=1", True),
        ("--nodes 2", False),
        ("--gpus 8", False),
        ("--nodes 2 --gpus 1 --queue team-a", False),
        ("--nodes 2 --gpus 1 --scheduler default", False),
    ],
)
def test_a_missing_gang_is_warned_of_where_pods_hold_what_is_scarce(
    capsys: pytest.CaptureFixture[str], line: str, warns: bool
) -> None:
    code, _, err = run(capsys, "launch", "--kubeconfig", "none", *line.split(), "train.py")
    assert code == 4
    assert ("no gang scheduling" in err) is warns
    assert ("--scheduler default" in err) is warns


def test_a_setting_silences_the_warning_of_a_missing_gang(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    (project / "kij-train.toml").write_text('scheduler = "default"\ngpus = 4\nnodes = 2\n')
    assert "gang" not in run(capsys, "launch", "--kubeconfig", "none", "train.py")[2]
    _, out, _ = run(capsys, "render", "-o", "json", "train.py")
    pod = json.loads(out)["items"][-1]["spec"]["template"]["spec"]
    assert "schedulerName" not in pod


def test_every_key_of_a_spec_has_a_flag_or_a_word_in_the_docs() -> None:
    otherwise = {"script", "module", "program", "args", "min_nodes"}  # arguments, -m, --nodes
    without = set(JobSpec.model_fields) - {option.field for option in spec_options()} - otherwise
    assert without == {"affinity"}
    docs = "".join(page.read_text() for page in (Path(__file__).parents[2] / "docs").glob("*.md"))
    for word in ("affinity", "--capability", "--settings-script", "--read-only-root"):
        assert f"`{word}" in docs, word


# --- kubeconfigs ----------------------------------------------------------------------------------


def kubeconfig(path: Path, user: dict[str, object], server: str = "https://127.0.0.1:1") -> str:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "here",
    }
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_no_kubeconfig_is_said_with_the_ways_out(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "launch", "--kubeconfig", "none", "train.py")
    assert code == 4
    assert "no kubeconfig: none does not exist" in err
    assert "--local" in err


def test_an_unknown_context_names_the_known_ones(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = kubeconfig(tmp_path / "k", {"token": "t"})
    code, _, err = run(capsys, "launch", "--kubeconfig", path, "--context", "x", "train.py")
    assert code == 4
    assert "has no such context" in err
    assert "it has: here" in err


def test_a_broken_kubeconfig_is_no_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for text in ("", "[]", "a: [", "apiVersion: v1\nkind: Config\n"):
        (tmp_path / "k").write_text(text)
        code, _, err = run(capsys, "launch", "--kubeconfig", str(tmp_path / "k"), "train.py")
        assert code == 4, text
        assert "error: kubeconfig" in err
        assert "Traceback" not in err


@pytest.mark.parametrize("server", ["127.0.0.1:1", "cluster.example.com"])
def test_a_server_without_a_scheme_is_named_with_the_fix(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, server: str
) -> None:
    path = kubeconfig(tmp_path / "k", {"token": "t"}, server)
    code, _, err = run(capsys, "launch", "--kubeconfig", path, "train.py")
    assert code == 4
    assert f"server '{server}' of cluster c has no scheme" in err
    assert f"kubectl config set-cluster c --server=https://{server}" in err


def test_an_unreachable_server_is_named_and_nothing_claimed_to_be_left(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = kubeconfig(tmp_path / "k", {"token": "secret-token"})
    code, _, err = run(capsys, "launch", "--kubeconfig", path, "train.py")
    assert code == 4
    assert "the cluster at https://127.0.0.1:1 does not answer" in err
    assert "may be left" not in err
    assert "secret-token" not in err


@pytest.mark.parametrize("plugin", ["false", "no-such-plugin"])
def test_a_failing_credential_plugin_stops_before_any_request(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, plugin: str
) -> None:
    exec_ = {"apiVersion": "client.authentication.k8s.io/v1", "command": plugin}
    path = kubeconfig(
        tmp_path / "k", {"exec": {**exec_, "interactiveMode": "Never", "provideClusterInfo": False}}
    )
    code, _, err = run(capsys, "launch", "--kubeconfig", path, "train.py")
    assert code == 4
    said = "was not found" if plugin == "no-such-plugin" else "failed with exit code 1"
    assert f"the credential plugin {plugin} of user u {said}" in err
    assert "does not answer" not in err


# --- what it prints -------------------------------------------------------------------------------


def test_render_says_how_to_apply_what_kubectl_apply_does_not_take(
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = [word for i in range(3) for word in ("--env", f"V{i}={'1' * 100_000}")]
    code, out, err = run(capsys, "render", "--name", "a", *values, "train.py")
    assert code == 0
    assert out.count("kind: Job") == 1
    assert "Job a is too large for kubectl apply" in err
    assert "kubectl apply --server-side -f -" in err
    assert "too large" not in run(capsys, "render", "--name", "a", "train.py")[2]


def test_render_is_the_same_twice_and_needs_no_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    first = run(capsys, "render", "--nodes", "8", "--gpus", "4", "train.py", "--lr", "3e-4")
    second = run(capsys, "render", "--nodes", "8", "--gpus", "4", "train.py", "--lr", "3e-4")
    assert first == second
    assert first[0] == 0
    kinds = [body["kind"] for body in yaml.safe_load_all(first[1])]
    assert kinds == ["ConfigMap", "Service", "NetworkPolicy", "Job"]


def test_where_the_project_lies_does_not_change_what_is_rendered(
    capsys: pytest.CaptureFixture[str],
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = run(capsys, "render", "train.py")
    (tmp_path / "elsewhere").mkdir()
    (project / "train.py").rename(tmp_path / "elsewhere/train.py")
    (tmp_path / "elsewhere/sub").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run(capsys, "render", "train.py") == here


def test_render_as_json_is_a_list_kubectl_takes(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "render", "-o", "json", "train.py")
    assert json.loads(out)["kind"] == "List"


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("train.py -x --nodes-like", ["train.py", "-x", "--nodes-like"]),
        ("-m pkg.train -x", ["-m", "pkg.train", "-x"]),
        ("--no-python ./run.sh -x", ["--no-python", "./run.sh", "-x"]),
        ("--no-code /opt/app/train.py -x", ["/opt/app/train.py", "-x"]),
        ("sub/deep.py", ["sub/deep.py"]),
        ("--no-torchrun train.py -x", ["--no-torchrun", "train.py", "-x"]),
        ("--no-torchrun -m pkg --port 1", ["--no-torchrun", "-m", "pkg", "--port", "1"]),
        (
            "--no-torchrun --port 2000 --nodes 2 --no-python a",
            ["--no-torchrun", "--await-rank0", "--no-python", "a"],
        ),
        ("--no-torchrun --port 2000 train.py", ["--no-torchrun", "train.py"]),
        ("-- train.py -- x", ["train.py", "--", "x"]),
    ],
)
def test_everything_after_the_script_is_the_scripts(
    capsys: pytest.CaptureFixture[str], project: Path, line: str, command: list[str]
) -> None:
    (project / "sub/deep.py").touch()
    (project / "run.sh").write_text("#!/bin/sh\n")
    (project / "run.sh").chmod(0o755)
    code, out, err = run(capsys, "render", "-o", "json", *line.split())
    assert code == 0, err
    job = json.loads(out)["items"][-1]
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == command


def test_a_spec_file_with_flags_on_top(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    (project / "job.yaml").write_text("script: train.py\nnodes: 2\nargs: [--lr, 1]\n")
    _, out, _ = run(capsys, "render", "-f", "job.yaml", "--nodes", "16", "-o", "json")
    job = json.loads(out)["items"][-1]
    assert job["spec"]["completions"] == 16
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["train.py", "--lr", "1"]


def test_config_shows_every_value_and_its_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIJ_GPUS", "4")
    code, out, _ = run(capsys, "config", "--nodes", "2", "--mount", "pvc:a:/b", "train.py")
    assert code == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines()}
    assert rows["nodes"][-1] == "--nodes"
    assert rows["gpus"] == ["gpus", "4", "KIJ_GPUS"]
    assert rows["mounts.0"][-1] == "--mount"
    assert rows["image"] == ["image", DEFAULT_IMAGE, "default"]
    assert {field.partition(".")[0] for field in rows} - {"NAME"} == set(JobSpec.model_fields)
    for form, load in (("json", json.loads), ("yaml", yaml.safe_load)):
        _, out, _ = run(capsys, "config", "--all", "-o", form, "train.py")
        assert load(out)["image"] == {"value": DEFAULT_IMAGE, "from": "default"}


def test_the_schema_accepts_what_the_spec_accepts(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    _, out, _ = run(capsys, "schema")
    schema = json.loads(out)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    good = {
        "script": "train.py",
        "nodes": 2,
        "memory": "16Gi",
        "cpu": 0.5,
        "timeout": "2h",
        "ttl": 60,
        "env": {"LR": 0.1, "DEBUG": True},
        "mounts": ["pvc:a:/b", {"type": "emptydir", "path": "/c"}],
        "tolerations": [
            "a=b:NoSchedule",
            {"key": "x", "tolerationSeconds": 3, "effect": "NoExecute"},
        ],
    }
    assert list(validator.iter_errors(good)) == []
    (project / "good.yaml").write_text(yaml.safe_dump({**good, "profile": "tcp"}))
    assert list(validator.iter_errors({**good, "profile": "tcp"})) == []
    assert run(capsys, "render", "-f", "good.yaml")[0] == 0
    wrong: list[dict[str, object]] = [{"nodess": 2}, {"nodes": "many"}, {"nodes": 0}, {"env": []}]
    for bad in wrong:
        assert list(validator.iter_errors(bad))


def test_a_closed_pipe_is_no_error() -> None:
    line = f"{sys.executable} -m kij_train render train.py | head -n 1"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "---\n", "")


def test_no_colour_reaches_a_pipe() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "kij_train", "launch", "nope.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "FORCE_COLOR": ""},
        check=False,
    )
    assert "\x1b" not in result.stderr
