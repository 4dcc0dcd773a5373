"""The environment that kij-train itself sets, which a user's `env` leaves alone."""

from __future__ import annotations

from kij_train.pod import contract, gang, itemplan, preflight

OF_EVERY_JOB = frozenset(
    {
        contract.ENV_CACHE,
        contract.ENV_CODE_SHA256,
        contract.ENV_COMPLETION_INDEX,
        contract.ENV_ERROR_FILE,
        contract.ENV_FETCH,
        contract.ENV_FETCHED,
        contract.ENV_FETCH_LIMITS,
        contract.ENV_JOB,
        contract.ENV_NAMES,
        contract.ENV_NODE_NAME,
        contract.ENV_PACKAGES_DIR,
        contract.ENV_PACKAGES_SHA256,
        contract.ENV_PARENT_PID,
        contract.ENV_RUN_DIR,
        contract.ENV_SCRATCH_DIR,
        contract.ENV_SETTINGS_SCRIPT,
        contract.ENV_SETUP,
        contract.ENV_SPREAD,
        contract.ENV_SPREAD_KEY,
    }
)
OF_TRAINING = OF_EVERY_JOB | {
    *contract.CONTRACT,
    contract.ENV_HEARTBEAT_DIR,
    contract.ENV_HEARTBEAT_FILE,
    contract.ENV_PREFLIGHT,
    contract.ENV_PREFLIGHT_GPUS,
    contract.ENV_PREFLIGHT_PORT,
    contract.ENV_RANKS_DIR,
    contract.ENV_RENDEZVOUS_TIMEOUT_S,
    contract.ENV_ROLE,
    contract.ENV_ROLES,
    contract.ENV_STACKS_DIR,
    gang.ENV_GANG,
    gang.ENV_GANG_ID,
    gang.ENV_POD_IP,
    gang.ENV_RESTARTS,
    gang.ENV_SPARE,
    preflight.ENV_SHARED,
    preflight.ENV_SHM_BYTES,
}
OF_ARRAYS = OF_EVERY_JOB | {
    value for name, value in vars(itemplan).items() if name.startswith("ENV_")
}
"""For an index or an item."""
