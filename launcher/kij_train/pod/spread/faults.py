"""Why something cannot be fetched, as the Failure that ends a pod.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

from kij_train.pod import contract
from kij_train.pod.contract import Failure
from kij_train.pod.status import FetchFault


def request_fault(kind: str, about: str) -> Failure:
    """What another pod would find as well."""
    return Failure(contract.EXIT_PREPARE, FetchFault(kind, about).text())


def origin_fault(kind: str, about: str) -> Failure:
    """What may go better another time, or on another machine."""
    return Failure(contract.EXIT_ORIGIN, FetchFault(kind, about).text())


def has_changed(what: str = "the origin") -> Failure:
    """An origin that is no longer what the first part was read from."""
    return request_fault("changed", f"{what}: what the pods have would be of two versions")
