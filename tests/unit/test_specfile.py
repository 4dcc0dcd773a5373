"""Where values come from: precedence, origins, and what is said about wrong ones."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from kij_train.errors import RequestError
from kij_train.pod import contract, gang
from kij_train.spec import DEFAULT_IMAGE, JobSpec
from kij_train.specfile import (
    Layer,
    Location,
    Origin,
    Resolved,
    check,
    resolve,
    unknown_variables,
)

from tests.badinput import FILES

LAUGHS = FILES["aliases that grow"].decode()


def flags(**values: object) -> Layer:
    origins: dict[Location, Origin] = {
        (name,): Origin(f"--{name}", names_value=True) for name in values
    }
    return Layer(dict(values), origins)


def resolved(
    cwd: Path,
    layer: Layer | None = None,
    environ: dict[str, str] | None = None,
    spec_file: str | None = None,
    profile: str | None = None,
) -> Resolved:
    return resolve(
        layer or Layer({}), environ=environ or {}, cwd=cwd, spec_file=spec_file, profile=profile
    )


def test_each_source_ranks_above_the_next(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        '[spec]\nnodes = 1\ngpus = 1\nimage = "p"\ncpu = 1\nshm = "1Gi"\n'
    )
    (tmp_path / "kij-train.toml").write_text('nodes = 2\ngpus = 2\nimage = "toml"\ncpu = 2\n')
    (tmp_path / "job.yaml").write_text("nodes: 3\ngpus: 3\nimage: file\n")
    result = resolved(
        tmp_path,
        flags(nodes="5"),
        {"KIJ_NODES": "4", "KIJ_GPUS": "4"},
        spec_file="job.yaml",
        profile="p.toml",
    )
    spec = result.spec
    assert (spec.nodes, spec.gpus, spec.image, spec.cpu, spec.shm) == (5, 4, "file", "2", "1Gi")
    origins = [result.origin((name,)) for name in ("nodes", "gpus", "image", "cpu", "shm", "port")]
    assert origins == [
        "--nodes",
        "KIJ_GPUS",
        "job.yaml:3",
        "kij-train.toml:4",
        "profile p.toml",
        "default",
    ]


def test_nothing_said_is_all_defaults(tmp_path: Path) -> None:
    result = resolved(tmp_path)
    assert result.spec.image == DEFAULT_IMAGE
    assert result.origins == {}


def test_mappings_merge_by_key_and_remember_who_set_each(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("env:\n  A: file\n  B: file\n")
    result = resolved(
        tmp_path, flags(env={"B": "flag"}), {"KIJ_ENV": "A=env C=env"}, spec_file="job.yaml"
    )
    assert result.spec.env == {"A": "env", "B": "flag", "C": "env"}
    assert result.origin(("env", "A")) == "KIJ_ENV"
    assert result.origin(("env", "B")) == "--env"


def test_lists_of_volumes_and_tolerations_are_joined(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("mounts:\n  - pvc:data:/data\n")
    layer = Layer({"mounts": ["pvc:out:/out"]}, {("mounts", 0): Origin("--mount")})
    result = resolved(tmp_path, layer, spec_file="job.yaml")
    assert [mount.path for mount in result.spec.mounts] == ["/data", "/out"]
    assert result.origin(("mounts", 0)) == "job.yaml:2"
    assert result.origin(("mounts", 1)) == "--mount"


def test_another_command_replaces_the_files_command_with_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("script: a.py\nargs: [--lr, 1]\n")
    result = resolved(tmp_path, flags(module="pkg.train"), spec_file="job.yaml")
    assert (result.spec.script, result.spec.module, result.spec.args) == (None, "pkg.train", ())


def test_paths_in_a_file_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.yaml").write_text("script: train.py\ncode_dir: ../src\n")
    result = resolved(tmp_path, spec_file="jobs/job.yaml")
    assert Path(result.spec.code_dir).resolve() == tmp_path / "src"


def test_pyproject_serves_as_project_file_and_profiles_may_live_there(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.kij-train]\nprofile = "big"\nnode-selector = {pool = "a"}\n'
        "[tool.kij-train.profiles.big]\nnodes = 8\n"
    )
    (tmp_path / "deep").mkdir()
    result = resolved(tmp_path / "deep")
    assert (result.spec.nodes, result.origin(("nodes",))) == (8, "profile big")
    assert result.spec.node_selector == {"pool": "a"}
    assert result.origin(("node_selector", "pool")) == "../pyproject.toml:3"


def test_an_anchor_may_be_used_twice(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("env: &x {A: 1}\nlabels: *x\nannotations: {<<: *x, B: 2}\n")
    spec = resolved(tmp_path, spec_file="job.yaml").spec
    assert (spec.env, spec.annotations) == ({"A": "1"}, {"A": "1", "B": "2"})


def test_a_spec_file_may_choose_a_profile_and_whoever_ranks_higher_another(tmp_path: Path) -> None:
    for name in ("toml", "file", "variable", "flag"):
        (tmp_path / f"{name}.toml").write_text(f'[spec]\nimage = "{name}"\n')
    (tmp_path / "kij-train.toml").write_text('profile = "toml.toml"\n')
    (tmp_path / "job.yaml").write_text("profile: file.toml\n")
    environ = {"KIJ_PROFILE": "variable.toml"}
    for expected, result in (
        ("toml", resolved(tmp_path)),
        ("file", resolved(tmp_path, spec_file="job.yaml")),
        ("variable", resolved(tmp_path, environ=environ, spec_file="job.yaml")),
        ("flag", resolved(tmp_path, None, environ, "job.yaml", "flag.toml")),
    ):
        assert result.spec.image == expected
        assert result.origin(("image",)) == f"profile {expected}.toml"


def test_arguments_in_a_variable_are_words_of_a_shell(tmp_path: Path) -> None:
    result = resolved(tmp_path, environ={"KIJ_SCRIPT": "a.py", "KIJ_ARGS": "--name 'a b' -x"})
    assert result.spec.args == ("--name", "a b", "-x")
    assert result.origin(("args",)) == "KIJ_ARGS"


def test_variables_that_set_nothing_are_named() -> None:
    known = {f"KIJ_{name.upper()}": "" for name in JobSpec.model_fields if name != "affinity"}
    nodes_own = {
        value: ""
        for module in (contract, gang)
        for name, value in vars(module).items()
        if name.startswith("ENV_")
    }
    assert unknown_variables({**known, **nodes_own, "KIJ_PROFILE": "", "KIJ_RUN_ID": "a"}) == []
    assert unknown_variables({"KIJ_NODE": "3", "KIJ_AFFINITY": "{}", "KIJ_QQQ": ""}) == [
        "KIJ_AFFINITY is no setting",
        'KIJ_NODE is no setting. Did you mean "KIJ_NODES"?',
        "KIJ_QQQ is no setting",
    ]


AS_WRITTEN = [
    *("1.10", "3.0", "1.0e+5", ".5", "010", "0755", "0x1F", "0b11", "1_0", "+1", "1:30:00"),
    *(
        "on",
        "No",
        "true",
        "FALSE",
        "2026-01-01",
        "2026-13-45",
        "=",
        "<<",
        ".inf",
        ".nan",
        "9" * 5000,
    ),
]
"""What YAML 1.1 takes for something else than text."""


@pytest.mark.parametrize("text", AS_WRITTEN, ids=lambda text: text[:10])
def test_text_is_what_the_file_says_and_not_what_yaml_makes_of_it(
    tmp_path: Path, text: str
) -> None:
    lines = (f"env: {{A: {text}}}", f"args: [{text}, '{text}']", f"annotations: {{a: {text}}}")
    (tmp_path / "job.yaml").write_text("\n".join(("script: a.py", *lines)))
    spec = resolved(tmp_path, spec_file="job.yaml").spec
    assert (spec.env, spec.args, spec.annotations) == ({"A": text}, (text, text), {"a": text})


def test_so_are_labels_quantities_names_and_keys(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "labels: {version: 1.10, on: 1.0}\nnode_selector: {1.10: 1.20}\nimage: 1.10\ncpu: 1.50\n"
        "memory: 16_0\ntolerations: [{key: a, operator: Equal, value: 0755}]\n"
    )
    with pytest.raises(RequestError, match=r"job.yaml:5: memory 16_0 is no Kubernetes quantity"):
        resolved(tmp_path, spec_file="job.yaml")
    text = (tmp_path / "job.yaml").read_text().replace("16_0", "1073741824")
    (tmp_path / "job.yaml").write_text(text)
    spec = resolved(tmp_path, spec_file="job.yaml").spec
    assert (spec.labels, spec.node_selector) == ({"version": "1.10", "on": "1.0"}, {"1.10": "1.20"})
    assert (spec.image, spec.cpu, spec.memory) == ("1.10", "1.50", "1073741824")
    assert spec.tolerations[0].value == "0755"


def test_numbers_and_truth_values_are_read_where_a_field_has_them(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "nodes: 2\nport: '2000'\ncode: off\npreflight: Yes\nname:\ncpu: ~\nmemory: null\n"
        "resources: {a.b/c: 3}\nmounts: [{type: pvc, source: a, path: /a, read_only: true}]\n"
        "tolerations: [{effect: NoExecute, tolerationSeconds: 30}]\n"
    )
    spec = resolved(tmp_path, spec_file="job.yaml").spec
    assert (spec.nodes, spec.port, spec.code, spec.preflight) == (2, 2000, False, True)
    assert (spec.name, spec.cpu, spec.memory, spec.resources) == (None, None, None, {"a.b/c": 3})
    assert spec.mounts[0].read_only
    assert spec.tolerations[0].toleration_seconds == 30


def test_affinity_keeps_the_types_of_yaml(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "env: {A: &n 1}\naffinity: {a: [{weight: *n, b: true, c: 0.5, d: x, e: 2026-01-01}]}\n"
    )
    spec = resolved(tmp_path, spec_file="job.yaml").spec
    expected = {"weight": 1, "b": True, "c": 0.5, "d": "x", "e": "2026-01-01"}
    assert (spec.env, spec.affinity) == ({"A": "1"}, {"a": [expected]})


def test_fractions_of_toml_are_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "kij-train.toml").write_text(
        'profile = "p.toml"\ncpu = 1.50\n[labels]\nv = 1.10\nn = 8\n'
    )
    (tmp_path / "p.toml").write_text("[spec]\nenv = {CUDA = 12.10, LR = 1e-3}\n")
    spec = resolved(tmp_path).spec
    assert (spec.cpu, spec.labels) == ("1.50", {"v": "1.10", "n": "8"})
    assert spec.env == {"CUDA": "12.10", "LR": "1e-3"}


def test_a_dash_is_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"script: a.py\nnodes: 2\ngpus: many\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    with pytest.raises(RequestError, match="standard input:3: gpus many is no whole number"):
        resolved(tmp_path, spec_file="-")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.replace(b"many", b"4"))))
    spec = resolved(tmp_path, spec_file="-").spec
    assert (spec.nodes, spec.gpus, Path(spec.code_dir)) == (2, 4, tmp_path)


WRONG_FILES = [
    ("nodes: 2\ngpu_per_node: 4\n", 'job.yaml:2: unknown key "gpu_per_node". Did you mean "gpus"?'),
    ("nodess: 2\n", 'job.yaml:1: unknown key "nodess". Did you mean "nodes"?'),
    ("zzz: 2\n", 'job.yaml:1: unknown key "zzz"'),
    ("\nnodes: many\n", "job.yaml:2: nodes many is no whole number"),
    ("nodes: true\n", "job.yaml:1: nodes true is no whole number"),
    ("nodes: 0\n", "job.yaml:1: nodes 0 must be at least 1"),
    ("nodes: [2]\n", "job.yaml:1: nodes is no whole number"),
    ("memory: 16gb\n", "job.yaml:1: memory 16gb is no Kubernetes quantity. Did you mean 16Gi"),
    ("env: [A]\n", "job.yaml:1: env must be a mapping of keys to values"),
    ("env:\n  A: [1]\n", "job.yaml:2: env.A must be text"),
    ("args: --lr\n", "job.yaml:1: args --lr must be a list"),
    ("code: perhaps\n", "job.yaml:1: code perhaps must be true or false"),
    ("mounts:\n  - pvc:a:/a\n  - pvx:b:/b\n", "job.yaml:3: mounts.1: 'pvx:b:/b' must be"),
    ("mounts:\n  - type: pvc\n    path: /a\n", "job.yaml:2: mounts.0 pvc needs a source"),
    (
        "mounts:\n  - {type: pvc, surce: a, path: /a}\n",
        'unknown key "surce". Did you mean "source"?',
    ),
    ("mounts:\n  - {type: pvc, source: a}\n", "job.yaml:2: mounts.0.path is missing"),
    ("image_pull_policy: sometimes\n", "image_pull_policy sometimes must be one of Always, IfNotP"),
    ("gpus: 4\nnproc_per_node: 2\n", "job.yaml:2: nproc_per_node 2 conflicts with 4 GPUs a node"),
    ("name: My_Job\n", "job.yaml:1: name My_Job must be lower-case letters"),
    ("env: {WORLD_SIZE: 2}\n", "job.yaml:1: env: WORLD_SIZE is set by kij-train itself"),
    ("resources: {cpu: 2}\n", "job.yaml:1: resources cpu has its own flag: --cpu"),
    ("shm: 8Gi\nmemory: 4Gi\n", "job.yaml:1: shm 8Gi is more than memory (4Gi)"),
    ("script: a.py\nmodule: b\n", "module b conflicts with script"),
    ("spares: 1\n", "spares 1 needs --restart gang"),
    ("hang_timeout: 10m\n", "hang_timeout 10m needs --restart gang or elastic, whose"),
    ("restart: gang\nheartbeat: output\n", "heartbeat output needs --hang-timeout"),
    (
        "restart: gang\nhang_timeout: 10m\nprogram: train\n",
        "hang_timeout 10m needs --heartbeat output with a program",
    ),
    ("max_restarts: 5\n", "max_restarts 5 needs --restart gang"),
    ("restart: gang\nnodes: 2\nspares: 2\n", "spares 2 must be fewer than the 2 nodes"),
    ("nodes: 2:4\n", "nodes 2:4 is a range, which needs --restart elastic"),
    ("restart: gang\nnodes: 2:4\n", "nodes 2:4 is a range, which needs --restart elastic"),
    ("restart: elastic\nnodes: 4\n", "restart elastic needs the smallest number of nodes"),
    (
        "restart: elastic\nnodes: 4:8\n",
        "nodes 4:8 must begin above half of the 8 pods, at 5 or more",
    ),
    ("restart: elastic\nnodes: 9:8\n", "nodes 9:8 ends below where it begins. Did you mean 8:9?"),
    ("restart: gang\nbackoff: 2\n", "backoff 2 is set by --max-restarts"),
    ("restart: gang\ntorchrun: false\n", "restart gang needs torchrun"),
    ("nodes: 2\nnodes: 3\n", 'job.yaml:2: key "nodes" stands here twice'),
    ("nproc-per-node: 2\nnproc_per_node: 2\n", 'job.yaml:2: key "nproc_per_node" stands here tw'),
    ("nodes: 1\n? [a, b]\n: 2\n", "job.yaml:2: a key must be text"),
    ("env:\n  ? {a: b}\n  : 2\n", "job.yaml:2: a key must be text"),
    ("nodes: 1\n?\n: \n", "job.yaml:2: a key must be text, and YAML reads none here"),
    ("env:\n  null: 1\n", "job.yaml:2: a key must be text, and YAML reads none here. Put it into "),
    ('image: ""\n', "job.yaml:1: image '' is empty: is a variable unset?"),
    ("image: A\n", "job.yaml:1: image A is no image: its name must be in lower case"),
    ('script: ""\n', "job.yaml:1: script '' is empty: is a variable unset?"),
    ('program: ""\n', "job.yaml:1: program '' is empty: is a variable unset?"),
    *(
        (f"program: {name}\n", f"job.yaml:1: program {name} is a folder")
        for name in (".", "./", "..", "a/", "/")
    ),
    ("gpus: 4194305\n", "job.yaml:1: gpus 4194305 must be at most 4194304"),
    (f"gpus: {'9' * 5000}\n", f"job.yaml:1: gpus {'9' * 80}… is too big"),
    (f"nproc_per_node: 1{'0' * 400}\n", "… must be at most 4194304, the most that Linux has"),
    (f"resources: {{a.b/c: {2**63}}}\n", "must be less than 9223372036854775808"),
    *((f"{key}: {'9' * 5000}\n", "9… is more than Kubernetes") for key in ("cpu", "memory", "shm")),
    (f"timeout: {'9' * 5000}\n", "9… is longer than Kubernetes can count"),
    (f"timeout: 1d{'9' * 5000}h\n", "9… is longer than Kubernetes can count"),
    *(
        (f"{key}: {'x' * 6000}\n", f"job.yaml:1: {key} {'x' * 80}… is too long: a path")
        for key in ("script", "module", "program")
    ),
    (f"script: {'x/' * 3000}x\n", f"job.yaml:1: script {'x/' * 40}… is too long: a path"),
    (
        f"code_dir: {'x' * 6000}\n",
        "… is too long: a path has 4,095 bytes at most, a name in it 255",
    ),
    ("timeout: 1:30:00\n", "job.yaml:1: timeout 1:30:00 is no duration"),
    ("image: 1.10 a\n", "job.yaml:1: image '1.10 a' "),
    ("nodes: 1.10\n", "job.yaml:1: nodes 1.10 is no whole number"),
    ("nodes: 0x1F\n", "job.yaml:1: nodes 0x1F is no whole number"),
    ("args: [a, ~]\n", "job.yaml:1: args.1 must be text"),
    (f"affinity: {{a: {'9' * 5000}}}\n", "job.yaml: no valid YAML: Exceeds the limit"),
    ("code_dir: ~nosuchuser/x\n", "code_dir ~nosuchuser/x: no such user"),
    (
        "nodes: 1\nenv: &x {A: 1, <<: *x}\n",
        "job.yaml:2: an alias (*) stands inside of what it stands",
    ),
    ("args: &x [*x]\n", "job.yaml:1: an alias (*) stands inside of what it stands"),
    (
        LAUGHS,
        "job.yaml: its aliases (*) stand for more than 100,000 values",
    ),
    (
        "mounts:\n  - {type: pvc, source: a, pathh: /a}\n",
        'job.yaml:2: unknown key "pathh". Did you mean "path"?',
    ),
    ("nodes: 1\nprofile: tpc\n", 'job.yaml:2: profile tpc: no such profile. Did you mean "tcp"?'),
    ("profile: [tcp]\n", "job.yaml:1: profile must be the name of a profile"),
    ("nodes: [\n", "job.yaml:2: no valid YAML"),
    ("- nodes\n", "job.yaml:1: must be a mapping"),
    ("", "job.yaml is empty"),
    ("run_as_user: 0\n", "job.yaml:1: run_as_user 0 must be at least 1"),
    ("port: 80\n", "job.yaml:1: port 80 must be at least 1024"),
    ("tolerations: [{key: a, value: b}]\n", "operator Exists takes no value"),
    ("tolerations: ['a:Never']\n", "job.yaml:1: tolerations.0.effect Never must be one of NoSch"),
    ("labels: {a: 'b c'}\n", "job.yaml:1: labels.a: 'b c' is no label value"),
    ('script: "a\\0.py"\n', "job.yaml:1: script 'a\\x00.py' holds a NUL byte"),
    ('args: [a, "b\\0"]\n', "job.yaml:1: args.1 'b\\x00' holds a NUL byte"),
    ('env:\n  A: "b\\0"\n', "job.yaml:2: env.A holds a NUL byte"),
    ('env:\n  "A\\0": b\n', "is no name for an environment variable"),
    ('image: "a\\0"\n', "job.yaml:1: image 'a\\x00' holds a NUL byte"),
    ('code_dir: "a\\0"\n', "holds a NUL byte"),
    ('annotations: {a: "b\\0"}\n', "job.yaml:1: annotations.a 'b\\x00' holds a NUL byte"),
    ('mounts: ["hostpath:/a\\0:/b"]\n', "job.yaml:1: mounts.0.source"),
    ('affinity: {a: [{b: "c\\0"}]}\n', "job.yaml:1: affinity holds a NUL byte"),
    (f"args: [{'x' * 131_072}]\n", "job.yaml:1: args.0 xxxx"),
    (f"env: {{A: {'x' * 131_070}}}\n", "job.yaml:1: env.A is 131,072 bytes long, and Linux"),
    (f"args: [{', '.join(['x' * 100_000] * 11)}]\n", "are 1,100,011 bytes together"),
    (f"args: [{', '.join(['$' * 100_000] * 6)}]\n", "are 1,200,006 bytes together"),
    (f"annotations: {{a: {'x' * 2**18}}}\n", "annotations are 262,145 bytes together"),
    ("env: {RANK: 2}\n", "job.yaml:1: env: RANK is set by torchrun for every rank"),
    ("env: {PET_MAX_RESTARTS: 2}\n", "env: PET_MAX_RESTARTS is a flag of torchrun that kij-train"),
]


@pytest.mark.parametrize("name", ["script", "program", "args", "env", "name", "annotations"])
def test_text_that_is_no_utf_8_is_refused_as_a_json_object_could_not_hold_it(name: str) -> None:
    """As bytes of a command line that are none come to Python."""
    value: object = {"args": ["\udcff"]}.get(name, "a\udcff")
    value = {"a": value} if name in ("env", "annotations") else value
    with pytest.raises(RequestError, match="is no UTF-8, the only text that"):
        check(Layer({"script": "a.py", name: value}, {(name,): Origin(name)}))


def test_a_value_that_may_be_a_secret_is_not_shown_when_it_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        check(Layer({"env": {"TOKEN": "hunter2\0"}}, {("env",): Origin("--env", names_value=True)}))
    assert caught.value.message.startswith("--env TOKEN holds a NUL byte")
    assert "hunter2" not in caught.value.message


def test_whoever_starts_ranks_without_torchrun_may_set_what_torchrun_would() -> None:
    env = {"RANK": "$(NODE_RANK)", "PET_MAX_RESTARTS": "2"}
    assert check(Layer({"script": "a.py", "torchrun": False, "env": env}, {})).spec.env == env


def test_the_longest_strings_that_fit_are_taken() -> None:
    args = ["x" * 131_071, *(["x" * 99_999] * 9)]
    assert check(Layer({"script": "a.py", "args": args}, {})).spec.args == tuple(args)


@pytest.mark.parametrize(("text", "message"), WRONG_FILES)
def test_a_wrong_file_is_refused_with_file_line_and_way_out(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(RequestError) as caught:
        resolved(tmp_path, spec_file="job.yaml")
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"KIJ_NODES": "x"}, "KIJ_NODES x is no whole number"),
        ({"KIJ_ENV": "A"}, "KIJ_ENV A: must look like KEY=VALUE"),
        ({"KIJ_PROFILE": "tpc"}, 'KIJ_PROFILE tpc: no such profile. Did you mean "tcp"?'),
        ({"KIJ_ARGS": "a 'b"}, "KIJ_ARGS a 'b: not as a shell reads words: No closing quotation"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, variables: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        resolved(tmp_path, environ=variables)
    assert message in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, message in (
        ("none.yaml", "cannot read none.yaml: No such file"),
        ("binary.yaml", "binary.yaml is not a text file"),
        (".", "cannot read .: Is a directory"),
        ("x" * 5000, f"cannot read {'x' * 80}…: File name too long"),
        ("x\0", r"cannot read 'x\\x00': it holds a NUL byte"),
        ("~/none.yaml", r"cannot read ~/none.yaml: No such file"),
    ):
        with pytest.raises(RequestError, match=message):
            resolved(tmp_path, spec_file=name)


def test_profiles_of_no_file_are_named(tmp_path: Path) -> None:
    for name, message in (
        ("x" * 5000 + ".toml", f"--profile {'x' * 80}…: File name too long"),
        ("x" * 5000, f"--profile {'x' * 80}…: no such profile"),
        ("x\0.toml", r"--profile 'x\\x00.toml': holds a NUL byte"),
        ("~/x.toml", "--profile ~/x.toml: no such file"),
    ):
        with pytest.raises(RequestError, match=message):
            resolved(tmp_path, profile=name)


def test_what_is_no_key_of_a_profile_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("nodes = 4\n[spec]\ngpus = 8\n")
    with pytest.raises(RequestError, match="nodes is no key of a profile") as caught:
        resolved(tmp_path, profile="p.toml")
    assert caught.value.hints == ("settings of a job stand below its line [spec]",)
    (tmp_path / "p.toml").write_text("[spce]\ngpus = 8\n")
    with pytest.raises(RequestError, match=r"spce is no key of a profile. Did you mean .spec.\?"):
        resolved(tmp_path, profile="p.toml")


def test_wrong_toml_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "kij-train.toml").write_text('image = "a"\nnode = 2\n')
    with pytest.raises(RequestError, match=r'kij-train.toml:2: unknown key "node". Did you'):
        resolved(tmp_path)
    (tmp_path / "kij-train.toml").write_text("nodes = \n")
    with pytest.raises(RequestError, match=r"kij-train.toml: no valid TOML: .*line 1"):
        resolved(tmp_path)
    (tmp_path / "kij-train.toml").write_text("labels = {day = 2026-01-01}\n")
    with pytest.raises(RequestError, match=r"day 2026-01-01 must be text: put it into quotes"):
        resolved(tmp_path)
    (tmp_path / "kij-train.toml").write_bytes(b"# \xff\n")
    with pytest.raises(RequestError, match=r"kij-train.toml is not a text file in UTF-8"):
        resolved(tmp_path)
