"""N nodes that start again together, with --restart gang or elastic, and their spares.

Every index has one pod, and no second one: `backoffLimitPerIndex: 0`. The Job has indexes in
reserve, which have no pod, and when one fails, the Job controller makes a pod for the lowest of
these, without the backoff of 10 s that an index has which may fail again. So a lost pod is replaced
after two seconds, and the reserve costs nothing until then: quotas count pods, and Kueue counts
`parallelism`.

- *How many.* `parallelism` is nodes and spares, `completions` the reserve on top of it. The reserve
  is `--max-restarts`: one number for what a job survives, though failures of the script and lost
  pods are counted apart. Its default, 3, is small: it is also how many pods are wasted, at most,
  before a job that nobody watches ends where no pod of it can start.
- *A loss* is a pod that ends other than with exit code 0, or is deleted: what the node's own
  process, its machine or an administrator did. A script that fails is none, as long as the
  supervisors start it again: the pods stay. A spare is replaced from the reserve as any other.
- *The end.* One loss more than there is reserve fails the Job (`maxFailedIndexes`), whose pods are
  then ended. Where a script has failed for good, all pods end with exit code 1. They are that one
  loss more by themselves where there are more pods than reserve. Else the Job makes pods for what
  is left of it, which hear from the last of the old ones that it is over, and end at once; an
  attached `launch` or `wait` keeps it from that by setting `backoffLimit` to 0. A podFailurePolicy
  would end it at once, but forces podReplacementPolicy Failed, under which a pod on a dead machine
  is not replaced until somebody removes it.
- *Success* is N pods that end with exit code 0, whichever indexes they have (`successPolicy`). A
  supervisor ends so when the leader says that all ranks have ended well, which all are told at
  once; spares, too. A pod of the reserve that the Job makes in between is ended with the Job.
- *Suspended and resumed*, a job has pods for its lowest indexes that were not lost, and what was
  lost stays lost: resuming gives no new reserve.
- *Scaled*, an elastic job gets another `parallelism`. `completions` cannot change.
- Host names move: `<job>-7` may be rank 0. The supervisors find each other by the name of the
  Service, which has the addresses of all pods.

Servers before 1.33, on which these fields may be off, get the older form (cluster/served.py), in
which a lost index comes back with another pod.
"""

from __future__ import annotations

import json

from kij_train import names, pod
from kij_train.pod import gang
from kij_train.render.shapes.shape import Shape
from kij_train.spec import DEFAULT_PORT, SUPERVISOR_PORT, JobSpec

LOST_MACHINE_S = 5
"""Seconds until a pod on a machine that is not heard of is replaced; Kubernetes waits 300."""


def shape(spec: JobSpec, name: str) -> Shape:
    """The shape of a job that restarts: a supervisor is the first process of every pod."""
    port = (spec.port or DEFAULT_PORT) + SUPERVISOR_PORT
    settings = spec.gang_settings([f"{name}-{{}}.{name}:{port}"], spec.reserve, spec.shared_paths)
    return Shape(
        policy={
            "completions": spec.indexes,
            "parallelism": spec.pods,
            "backoffLimitPerIndex": 0,
            "maxFailedIndexes": spec.reserve,
            "successPolicy": {"rules": [{"succeededCount": spec.least_nodes}]},
        },
        first_process=gang.SUPERVISOR.name,
        sources=(*pod.BESIDE, *gang.FILES),
        environment={gang.ENV_GANG: json.dumps(settings._asdict())},
        field_references={
            gang.ENV_POD_IP: "status.podIP",
            gang.ENV_GANG_ID: f"metadata.labels['{names.CONTROLLER_UID}']",
        },
        ports={"supervisor": port},
        # A pod is ready while its node trains. A pod that stands by is not ready.
        probes={
            "readinessProbe": {
                "tcpSocket": {"port": port + gang.READY_PORT},
                "periodSeconds": 5,
                "failureThreshold": 1,
            }
        },
        tolerations=[
            {
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": LOST_MACHINE_S,
            }
            for key in (names.NOT_READY, names.UNREACHABLE)
        ],
    )
