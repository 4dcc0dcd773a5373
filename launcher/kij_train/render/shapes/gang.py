"""Jobs of N nodes and their spares that restart together: --restart gang or elastic.

Every index gets one pod, and no second one (`backoffLimitPerIndex: 0`). Some indexes are a reserve:
they have no pod at first. When a pod fails, the Job controller creates a pod for the lowest index
of the reserve. This takes two seconds: there is no backoff of 10 s, which an index has that may
fail again. The reserve costs nothing until then: quotas count pods, and Kueue counts `parallelism`.

- *How many.* `parallelism` is nodes plus spares. `completions` is that plus the reserve. The
  reserve is `--max-restarts`: the same number limits lost pods and failures of the script, which
  are counted separately. The default of 3 is small, because it is also how many pods are wasted, at
  most, when none of the job's pods can start and nobody watches it.
- *A loss* is a pod that is deleted, or ends with an exit code other than 0: because of its first
  process, its machine or an administrator. A failed script is not a loss: the pods stay, and the
  supervisors start the script again. A lost spare is replaced from the reserve too.
- *The end.* The Job fails when one more pod is lost than the reserve has (`maxFailedIndexes`). Its
  pods are then ended. When a script has failed for good, all pods end with exit code 1. If these
  are more pods than the reserve has, the Job fails by that. If not, the Job first creates pods for
  the rest of the reserve. The last of the old pods tells them that the job is over, and they end at
  once. An attached `launch` or `wait` prevents these pods: it sets `backoffLimit` to 0. A
  podFailurePolicy would end the Job at once too, but it forces podReplacementPolicy Failed: a pod
  on a dead machine would then not be replaced until somebody removes it.
- *Success* is N pods that end with exit code 0, whatever their indexes (`successPolicy`). When all
  ranks have ended well, the leader tells all supervisors, also those of spares, and they end with
  0. If the Job has created another pod of the reserve by then, that pod is ended with the Job.
- *Suspend and resume.* A resumed job gets pods for its lowest indexes that were not lost. Lost
  indexes stay lost: resuming gives no new reserve.
- *Scale.* Scaling an elastic job changes `parallelism`. `completions` cannot change.
- *Host names.* An index is not a rank: `<job>-7` may be rank 0. The supervisors find each other by
  the name of the Service, which resolves to the addresses of all pods.

API servers before 1.33 may have these fields turned off. They get the older form of the Job
(cluster/served.py), in which a lost index comes back with another pod.
"""

from __future__ import annotations

import json

from kij_train import names, pod
from kij_train.pod import gang
from kij_train.render.shapes.shape import Shape
from kij_train.spec import DEFAULT_PORT, SUPERVISOR_PORT, JobSpec

LOST_MACHINE_S = 5
"""Seconds until a pod on an unreachable machine is replaced. The default of Kubernetes is 300."""


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
        # A pod is ready while its ranks run. A spare is not ready.
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
