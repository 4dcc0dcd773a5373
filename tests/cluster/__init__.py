"""A real Kubernetes for the tests: "kind without Docker".

A control plane, two nodes, DNS and containers run as plain processes inside Linux namespaces of
their own. README.md says how to use it and how it is built; `python -m tests.cluster --help`
lists the commands. Standard library only: it has to run with the bare Python of a fresh machine.
"""
