"""What is planned before bytes are spread: the tree of pods, chunks of files, frames."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.pod import peering
from kij_train.pod.spread.chunks import File, Layout, check_path
from kij_train.pod.spread.tree import FANOUT, READER, Tree

ACTIONS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "move", "distrust"]), st.integers(0, 50)),
    max_size=60,
)


@given(ACTIONS)
def test_a_tree_never_has_a_circle_and_few_children_whatever_happens(
    actions: list[tuple[str, int]],
) -> None:
    tree, number = Tree(), 0
    distrusted = set()
    for action, chance in actions:
        members = tree.members
        if action == "add":
            tree.add(number)
            number += 1
        elif members:
            member = members[chance % len(members)]
            had = tree.parent(member)
            if action == "remove":
                tree.remove(member)
            elif action == "distrust":
                tree.distrust(member)
                distrusted.add(member)
            else:
                assert tree.parent(member) in (had, None) or had is not None
                new = tree.move(member)
                assert new == READER or (new != had and new not in distrusted)
        for each in tree.members:
            assert tree.depth(each) <= len(tree.members)
            children = [one for one in tree.members if tree.parent(one) == each]
            assert len(children) <= FANOUT


@pytest.mark.parametrize(("pods", "deepest"), [(1, 1), (2, 1), (7, 3), (63, 6), (511, 9)])
def test_a_tree_is_as_deep_as_a_full_one(pods: int, deepest: int) -> None:
    tree = Tree()
    for member in range(pods):
        tree.add(member)
    expected = next(d for d in range(1, 20) if sum(FANOUT**i for i in range(1, d + 1)) >= pods)
    assert max(tree.depth(member) for member in tree.members) == expected <= deepest


def test_a_pod_that_finds_no_good_parent_gets_the_reader() -> None:
    tree = Tree()
    for member in range(8):
        tree.add(member)
    parents = [tree.parent(7), *(tree.move(7) for _ in range(8))]
    assert parents[-1] == READER and len(set(parents)) > 2


SIZES = st.lists(st.integers(0, 40), max_size=12)


@given(SIZES, st.integers(1, 50))
def test_the_pieces_of_all_chunks_are_all_bytes_once_and_in_order(
    sizes: list[int], chunk_bytes: int
) -> None:
    files = [File(0, f"f{number}", size) for number, size in enumerate(sizes)]
    layout = Layout(files, chunk_bytes=chunk_bytes)
    found = []
    for chunk in range(layout.count):
        pieces = list(layout.pieces(chunk))
        assert sum(piece.length for piece in pieces) == layout.size_of(chunk) <= chunk_bytes
        found += [(p.file, p.offset + at) for p in pieces for at in range(p.length)]
    assert found == [(number, at) for number, size in enumerate(sizes) for at in range(size)]
    assert layout.total == sum(sizes)


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)


@given(st.lists(st.tuples(st.integers(0, 2), NAMES, st.integers(0, 2**50)), max_size=8), st.text())
def test_a_layout_is_read_as_it_was_sent(entries: list[tuple[int, str, int]], mark: str) -> None:
    files = [File(*entry) for entry in entries if entry[1] not in (".", "..")]
    layout = Layout(list({file[:2]: file for file in files}.values()), mark)
    same = Layout.decode(layout.encode(), 3)
    assert (same.id, same.files, same.mark) == (layout.id, layout.files, mark)


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".", "a/.", "a\0b", 7, None]
)
def test_a_path_that_would_leave_its_folder_is_refused(path: object) -> None:
    with pytest.raises(ValueError, match="would leave its folder"):
        check_path(path)
    said = {"files": [[0, path, 1, False]], "mark": "", "chunk": 4}
    with pytest.raises(ValueError, match="leave its folder"):
        Layout.decode(zlib.compress(json.dumps(said).encode()), 1)


@pytest.mark.parametrize(
    "said",
    [
        [],
        {"files": [], "mark": ""},
        {"files": [], "mark": "", "chunk": 0},
        {"files": [], "mark": "", "chunk": -1},
        {"files": [], "mark": "", "chunk": 2**40},
        {"files": [[1, "a", 1, False]], "mark": "", "chunk": 4},
        {"files": [[0, "a", -1, False]], "mark": "", "chunk": 4},
        {"files": [[0, "a", 1, False], [0, "a", 1, False]], "mark": "", "chunk": 4},
        {"files": [[0, "a", 1, False], [0, "a/b", 1, False]], "mark": "", "chunk": 4},
        {"files": [[0, "a"]], "mark": "", "chunk": 4},
    ],
)
def test_a_layout_that_no_pod_has_written_is_refused(said: object) -> None:
    with pytest.raises(ValueError):
        Layout.decode(zlib.compress(json.dumps(said).encode()), 1)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_layout_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Layout.decode(data, 1)


@given(st.binary(min_size=8, max_size=8))
def test_a_long_frame_is_refused_before_it_is_read(prefix: bytes) -> None:
    header, body = peering.LENGTHS.unpack(prefix)
    if header > peering.MOST_GREETING or body:
        with pytest.raises(peering.Refused):
            peering.lengths(prefix, peering.MOST_GREETING, 0)
    else:
        assert peering.lengths(prefix, peering.MOST_GREETING, 0) == (header, 0)


@given(st.binary(min_size=1), st.binary(min_size=1), st.text(max_size=40), st.text(max_size=40))
def test_a_proof_is_of_one_key_one_side_and_one_pair_of_challenges(
    key: bytes, other: bytes, mine: str, theirs: str
) -> None:
    proofs = {
        peering.proof(k, role, *nonces)
        for k in {key, other}
        for role in ("client", "server")
        for nonces in {(mine, theirs), (theirs, mine)}
    }
    assert len(proofs) == len({key, other}) * 2 * len({(mine, theirs), (theirs, mine)})
