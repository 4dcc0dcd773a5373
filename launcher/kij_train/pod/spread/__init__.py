"""Bytes that every pod of a job needs: read once, and handed on from pod to pod.

One pod, the reader, reads the origin. It cuts what it reads into chunks and tells everyone their
hashes. All others get chunks along a tree of pods, while those still get theirs.

The files of this package run in the pods, beside bootstrap.py: standard library only, Python 3.8.
"""

from pathlib import Path

FILES = (
    *sorted(set(Path(__file__).parent.glob("[a-z]*.py")) - {Path(__file__)}),
    Path(__file__).parent.with_name("peering.py"),
)
"""The files that are sent to the pods."""
