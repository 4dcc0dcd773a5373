"""Kueue, JobSet and Trainer, run as processes in the network of the test cluster.

Each is built by `python -m tests.cluster build --part NAME`. It acts as the cluster's
administrator. The API server reaches its webhooks by address: there are no ClusterIPs here. A lock
keeps two sessions from running one of a kind at the same time.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import parts
from tests.cluster.paths import StatePaths
from tests.cluster.processes import Daemon, run, wait_until, without_proxies
from tests.cluster.state import State, locked
from tests.controllers import answers

READY_S = 120.0
WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""An operator ends with the session that runs it, also when that is killed."""
IN_KUEUE = "kij-train.test/kueue"
"""Label of namespaces whose Jobs Kueue's webhooks see: other tests share the API server."""
Object = dict[str, Any]


@dataclass(frozen=True)
class Operator:
    """How to run one."""

    part: str
    crds: str
    """Folder of its CRDs, in the part."""
    webhooks: str
    """Its webhooks, as a file there."""
    port: int
    """Of its webhooks. The next one says whether it is ready."""
    command: Callable[[Path, int, Path], list[str]]
    """From the program, the port and a folder for what it reads."""
    certs: str
    """Where it looks for the certificate of its webhooks: below that folder, or absolute."""
    wanted: tuple[str, ...]
    """Words in the paths of the webhooks that are registered."""
    selected: dict[str, str] = field(default_factory=dict)
    """Word in a webhook's path → label of the namespaces that it is for."""
    needs: Callable[[], list[Object]] = list
    """What must be in the cluster before it starts."""


def _kueue(program: Path, port: int, folder: Path) -> list[str]:
    config = {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{port + 1}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"port": port, "certDir": str(folder / "certs")},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "integrations": {"frameworks": ["batch/job"]},
        "clientConnection": {"qps": 500, "burst": 1000},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    line = f'exec "$0" --config={folder}/config.yaml --feature-gates=VisibilityOnDemand=false'
    # It reads a certificate for its metrics from one place of the machine, which is covered here.
    cover = "mount -t tmpfs tmpfs /etc && mkdir -p /etc/kueue/metrics && cp -r"
    whole = f"{cover} {folder}/certs /etc/kueue/metrics/certs && {line}"
    return ["unshare", "--mount", "sh", "-c", whole, str(program)]


def _jobset(program: Path, port: int, folder: Path) -> list[str]:
    config = {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{port + 1}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"port": port},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return [str(program), f"--config={folder}/config.yaml", "--metrics-bind-address=0"]


def _trainer(program: Path, port: int, folder: Path) -> list[str]:
    flags = f"--health-probe-bind-address=127.0.0.1:{port + 1} --webhook-server-port={port}"
    # Where it looks for its certificate is fixed: /tmp/k8s-webhook-server.
    cover = f"mount --bind {folder} /tmp && export KUBECONFIG=/tmp/kubeconfig TMPDIR=/tmp"
    return ["unshare", "--mount", "sh", "-c", f'{cover} && exec "$0" {flags}', str(program)]


def _for_trainer() -> list[Object]:
    """What it insists on before it starts: a Secret for certificates of its own, and webhooks that
    name them. Those that are asked have others (`_webhooks`), for an address instead of a Service.
    """
    namespace = "kubeflow-system"
    secret = {"namespace": namespace, "name": "kubeflow-trainer-webhook-cert"}
    nothing = {
        "name": "nothing.trainer.kubeflow.org",
        "clientConfig": {"url": "https://127.0.0.1:1"},
        "namespaceSelector": {"matchLabels": {"kij-train.test/nobody": "here"}},
        "rules": [],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": secret},
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "validator.trainer.kubeflow.org"},
            "webhooks": [nothing],
        },
    ]


DEFAULT_CERTS = "k8s-webhook-server/serving-certs"
"""Of controller-runtime, below TMPDIR."""
OPERATORS = {
    "kueue": Operator(
        part="kueue",
        crds="config/components/crd/bases",
        webhooks="config/components/webhook/manifests.yaml",
        port=9643,
        command=_kueue,
        certs="certs",
        wanted=("batch-v1-job", "-kueue-x-k8s-io-"),
        selected={"batch-v1-job": IN_KUEUE},
    ),
    "jobset": Operator(
        part="jobset",
        crds="config/components/crd/bases",
        webhooks="config/components/webhook/manifests.yaml",
        port=9653,
        command=_jobset,
        certs=DEFAULT_CERTS,
        wanted=("-jobset-x-k8s-io-",),
    ),
    "trainer": Operator(
        part="trainer",
        crds="manifests/base/crds",
        webhooks="manifests/base/webhook/manifests.yaml",
        port=9663,
        command=_trainer,
        certs=DEFAULT_CERTS,
        wanted=("-trainer-kubeflow-org-",),
        needs=_for_trainer,
    ),
}


@contextmanager
def running(name: str, folder: Path) -> Iterator[None]:
    """One of them, from here on; its log is `folder/NAME.log`, and the log of a crash is raised."""
    operator, paths = OPERATORS[name], StatePaths.of_this_clone()
    state = State.of_running(paths)
    assert state is not None, "first: make cluster"
    part = parts.found(operator.part)
    with locked(paths.root / f"{name}.lock", wait=True):
        install_crds(state, part / operator.crds)
        apply(state, operator.needs())
        shutil.copy(state.kubeconfig, folder / "kubeconfig")
        certs = folder / operator.certs
        authority = _certificates(certs)
        daemon = Daemon(
            name,
            [*WITH_US, *operator.command(part / name, operator.port, folder)],
            logs=folder,
            env=without_proxies(
                {**os.environ, "KUBECONFIG": state.kubeconfig, "TMPDIR": str(folder)}
            ),
        )
        hooks = _webhooks(part / operator.webhooks, operator, authority)
        _remove(state, hooks)  # of a session that was killed
        daemon.start()
        try:
            ready = f"http://127.0.0.1:{operator.port + 1}/readyz"
            wait_until(name, lambda: answers(ready), timeout_s=READY_S, needs=[daemon])
            apply(state, hooks)
            yield
            assert daemon.alive, f"{name} ended\n{daemon.log_tail()}"
        finally:
            _remove(state, hooks)
            if daemon.alive:
                daemon.stop()


def install_crds(state: State, folder: Path) -> None:
    """The CRDs of a part; they stay, since other sessions may use them."""
    files = [path for path in sorted(folder.glob("*.yaml")) if path.name != "kustomization.yaml"]
    bodies = [body for path in files for body in yaml.safe_load_all(path.read_text()) if body]
    apply(state, bodies)
    names = [f"crd/{body['metadata']['name']}" for body in bodies]
    kubectl(state, "wait", "--for=condition=Established", "--timeout=60s", *names)


def apply(state: State, bodies: list[Object], *words: str) -> str:
    """By the server, with every field checked."""
    if not bodies:
        return ""
    document = {"apiVersion": "v1", "kind": "List", "items": bodies}
    said = ("apply", "--server-side", "--force-conflicts", "--validate=strict", *words, "-f", "-")
    return kubectl(state, *said, stdin=json.dumps(document))


def kubectl(state: State, *words: str, stdin: str | None = None) -> str:
    """As the administrator. Raises ClusterError."""
    return run([state.kubectl, "--kubeconfig", state.kubeconfig, *words], stdin=stdin)


def _remove(state: State, hooks: list[Object]) -> None:
    names = [f"{hook['kind'].lower()}/{hook['metadata']['name']}" for hook in hooks]
    kubectl(state, "delete", "--ignore-not-found", *names)


def _webhooks(file: Path, operator: Operator, authority: Path) -> list[Object]:
    """Those that are wanted, at an address of this machine."""
    bundle = base64.b64encode(authority.read_bytes()).decode()
    found = []
    for body in yaml.safe_load_all(file.read_text()):
        hooks = []
        for hook in body["webhooks"]:
            path = hook["clientConfig"]["service"]["path"]
            if not any(word in path for word in operator.wanted):
                continue
            url = f"https://127.0.0.1:{operator.port}{path}"
            hook["clientConfig"] = {"url": url, "caBundle": bundle}
            for word, label in operator.selected.items():
                if word in path:
                    hook["namespaceSelector"] = {"matchLabels": {label: "true"}}
            hooks.append(hook)
        if hooks:
            metadata = {"name": f"kij-{operator.part}"}
            found.append({**body, "metadata": metadata, "webhooks": hooks})
    return found


def _certificates(folder: Path) -> Path:
    """A certificate for this machine that signs itself, where an operator reads it."""
    folder.mkdir(parents=True)
    key, cert = folder / "tls.key", folder / "tls.crt"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    names = ("-subj", "/CN=operator", "-addext", "subjectAltName=IP:127.0.0.1")
    run(["openssl", "req", "-x509", *curve, "-days", "30", *names, "-keyout", key, "-out", cert])
    shutil.copy(cert, folder / "ca.crt")
    return cert
