"""The sessions of the docs that run on a cluster print what the pages show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import docblocks
from tests.kube import ROOT, Namespace


@pytest.mark.own_cluster  # its machines are called as in the pages
@pytest.mark.parametrize(
    "page",
    docblocks.pages_with_sessions(docblocks.CLUSTER),
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_what_a_page_shows_is_what_pods_print(
    page: Path, ns: Namespace, image: str, tmp_path: Path
) -> None:
    env = {"KUBECONFIG": ns.kubeconfig, "KIJ_NAMESPACE": ns.name, "KIJ_IMAGE": image}
    shown_as = {ns.name: "team", image: "registry.example/torch:2.15"}
    wrong = docblocks.run_page(page, docblocks.CLUSTER, tmp_path / "docs", env, shown_as)
    assert not wrong, "\n\n".join(wrong)
