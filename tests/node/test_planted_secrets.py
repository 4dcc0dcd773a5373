"""A planted secret that a real pod gets from a Secret is in nothing that others may read."""

from __future__ import annotations

import json
from pathlib import Path

from tests import planted
from tests.kube import Namespace

FAILS = """
import os
assert os.environ["TOKEN"].startswith("Pl4nted")
raise ValueError("bad batch")
"""


def test_objects_logs_and_termination_messages_do_not_show_what_a_pod_knows(
    ns: Namespace, small_image: str, tmp_path: Path
) -> None:
    ns.core.create_namespaced_secret(
        ns.name, {"metadata": {"name": "logins"}, "stringData": {"TOKEN": planted.TOKEN}}
    )
    for name, content in {"fails.py": FAILS, ".env": planted.PROJECT_FILES[".env"]}.items():
        (tmp_path / name).write_text(content)
    flags = ["--name", "a", "--image", small_image, "--no-torchrun", "--env-from-secret", "logins"]
    said = ns.kij_train("launch", *flags, "fails.py", cwd=tmp_path)
    assert said.returncode == 1 and "bad batch" in said.stderr, said.stderr
    found = {"launch": said.stdout + said.stderr}
    for command in ("why", "logs", "status", "events"):
        done = ns.kij_train(command, "a", cwd=tmp_path)
        found[command] = done.stdout + done.stderr
    api = ns.api.sanitize_for_serialization
    found["pods"] = json.dumps(api(ns.core.list_namespaced_pod(ns.name)))
    found["jobs"] = json.dumps(api(ns.batch.list_namespaced_job(ns.name)))
    found["code"] = json.dumps(api(ns.core.list_namespaced_config_map(ns.name)))
    found["policies"] = json.dumps(api(ns.networking.list_namespaced_network_policy(ns.name)))
    assert "bad batch" in found["pods"]  # the termination message
    leaks = {
        where: leaked
        for where, text in found.items()
        if (leaked := planted.planted_in(planted.unpacked(text.encode())))
    }
    assert leaks == {}
