"""Commands that people are told to type, each with the cluster that it is about.

An `Address` builds them. What has no cluster, as the diagnosis, which is pure, writes `on_job`,
`command` and `kubectl` instead: marks in a text, for which `Address.fill` puts the commands.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import dataclass

_MARK = re.compile("\x02(.*?)\x03", re.DOTALL)


@dataclass(frozen=True)
class Address:
    """A namespace of a cluster, as commands name it."""

    namespace: str = ""
    flags: tuple[str, ...] = ()
    """--context and --kubeconfig, unless kij-train finds them by itself where it is called."""
    kubectl_flags: tuple[str, ...] = ()
    """The same for kubectl, which reads no KIJ_* and no project file."""
    kubectl_program: tuple[str, ...] = ("kubectl",)
    """With what stands in front of it."""

    @classmethod
    def of(
        cls, kubeconfig: str | None, context: str | None, implied: frozenset[str] = frozenset()
    ) -> Address:
        """Of a kubeconfig and a context as they were given, if they were.

        `implied` are those of the two that a plain kij-train finds here as well.
        """
        given = {"context": context, "kubeconfig": kubeconfig}
        said = {field: value for field, value in given.items() if value}
        ours = {field: value for field, value in said.items() if field not in implied}
        program: tuple[str, ...] = ("kubectl",)
        if os.pathsep in said.get("kubeconfig", ""):  # several files, which its flag does not take
            program = ("env", f"KUBECONFIG={said.pop('kubeconfig')}", "kubectl")
        return cls("", _flags(ours), _flags(said), program)

    def on_job(self, verb: str, name: str, *words: str) -> str:
        """`kij-train VERB NAME`, and more words of it."""
        return shlex.join(["kij-train", verb, name, *self._namespace, *self.flags, *words])

    def command(self, *words: str) -> str:
        """`kij-train WORDS` that is about the namespace, and no job in it."""
        return shlex.join(["kij-train", *words, *self._namespace, *self.flags])

    def kubectl(self, *words: str) -> str:
        """`kubectl WORDS` in the namespace."""
        return shlex.join([*self.kubectl_program, *words, *self._namespace, *self.kubectl_flags])

    def kubectl_of_cluster(self, *words: str) -> str:
        """`kubectl WORDS` that is about no namespace."""
        return shlex.join([*self.kubectl_program, *words, *self.kubectl_flags])

    @property
    def _namespace(self) -> list[str]:
        return ["-n", self.namespace] if self.namespace else []

    def fill(self, text: str, name: str = "") -> str:
        """The text with commands for its marks; `name` is that of the job."""

        def command(found: re.Match[str]) -> str:
            try:
                kind, *words = json.loads(found[1])
                if kind == "job":
                    return self.on_job(words[0], name, *words[1:])
                return {"command": self.command, "kubectl": self.kubectl}[kind](*words)
            except (ValueError, TypeError, KeyError, IndexError):
                return found[0]  # somebody else's characters

        return _MARK.sub(command, text)


def _flags(given: dict[str, str]) -> tuple[str, ...]:
    return tuple(word for field, value in given.items() for word in (f"--{field}", value))


def on_job(verb: str, *words: str) -> str:
    """A mark for `Address.on_job`, of the job that the text is about."""
    return _mark("job", verb, *words)


def command(*words: str) -> str:
    """A mark for `Address.command`."""
    return _mark("command", *words)


def kubectl(*words: str) -> str:
    """A mark for `Address.kubectl`."""
    return _mark("kubectl", *words)


def _mark(kind: str, *words: str) -> str:
    return f"\x02{json.dumps([kind, *words])}\x03"
