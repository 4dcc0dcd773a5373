"""The simulation of --fetch for many pods: it ends, and lies between its bounds."""

from __future__ import annotations

import pytest

from benchmarks import fetch_simulated as benchmark

SIZE = 64 << 20


@pytest.mark.parametrize("uplink", [1250e6, 60e6])
@pytest.mark.parametrize(("pods", "depth"), [(2, 1), (8, 3), (64, 6)])
def test_many_pods_take_no_longer_than_the_model_and_no_less_than_the_origin(
    pods: int, depth: int, uplink: float
) -> None:
    result = benchmark.simulate(pods, uplink, size=SIZE)
    assert result.depth == depth and not result.lost
    assert SIZE / benchmark.ORIGIN_BYTES_S < result.seconds <= result.model_s


def test_pods_whose_parent_is_lost_get_all_too_and_hardly_later() -> None:
    whole, lossy = (benchmark.simulate(64, 1250e6, losses, SIZE) for losses in (False, True))
    assert lossy.lost >= 6 and lossy.seconds < 1.1 * whole.seconds
