"""The action for an operator on each metric. docs/reference/metrics.md contains it, and a test compares the names with the metrics."""

from __future__ import annotations

ACTIONS = {
    "manifold_ready": "If it stays 0: `GET /health/ready` names the models, and `GET /models` has the reasons.",
    "manifold_model_ready": "If it is 0: `GET /models` has the reason. A model that was unloaded, or that lacks an extra, "
    "has 0 too; `manifold_model_failed` excludes these.",
    "manifold_model_failed": "If it is 1: `GET /models` has the reason, such as an altered artifact or a missing device. "
    "Version 0: the model's folder cannot be read.",
    "manifold_model_device": "",
    "manifold_device_fallback": "If it is 1: repair the GPU driver or toolkit, or set the device to `cpu`.",
    "manifold_requests": "5xx: search the log for the request id. 499: clients disconnected before the response.",
    "manifold_request_seconds": "If it is high: the metrics of queue, compute and encode show which part takes the time.",
    "manifold_queue_seconds": "If it is high: add replicas, or allow a shorter queue (MANIFOLD_QUEUE_MS).",
    "manifold_compute_seconds": "If it is high: use a GPU or a smaller model, or lower MANIFOLD_MAX_ROWS.",
    "manifold_encode_seconds": "If it is high: request arrays (npy) or one picture instead of JSON.",
    "manifold_errors": "`internal`: a bug or a broken model. The log contains the details.",
    "manifold_refused": "`rows`, `bytes`, `wait`: too many requests for this number of replicas. `rate`: one key sends too many. "
    "`bodies`: many large uploads at once. `calls`, `probes`, `watches`: more requests, probes or watches at once than allowed. "
    "`deadline`: clients do not wait long enough. `commands`: too many admin commands. `stopping`: the process is ending.",
    "manifold_denied": "If it grows: a client has an old key, or tries to get access.",
    "manifold_key_requests": "Shows which clients send requests. POST /admin/reload lists the ids beside the names.",
    "manifold_run_rows": "If it is always near MANIFOLD_MAX_ROWS: the engine is the limit.",
    "manifold_run_requests": "Shows how well requests are batched.",
    "manifold_run_seconds": "The rate of its sum is the share of time in which the engine runs. Above 0.9: add replicas.",
    "manifold_runs": "",
    "manifold_failed_runs": "If it grows: see the log. Only the request that makes a run fail gets the error.",
    "manifold_queued_rows": "At MANIFOLD_QUEUE_ROWS, requests are refused.",
    "manifold_queued_bytes": "At MANIFOLD_QUEUE_BYTES, requests are refused.",
    "manifold_score_p_value": "A peak near 0 means drift or an attack.",
    "manifold_score_drift_ks": "If it grows: run `manifold calibrate` on recent normal rows, or train again.",
    "manifold_score_drift_p_value": "If it is near 0: the recent scores differ from the calibration sample.",
    "manifold_score_drift_rows": "",
    "manifold_connections": "At MANIFOLD_MAX_CONNECTIONS, new connections get 503.",
    "manifold_connections_cut": "`slow_head`, `slow_body`, `slow_reader`: poor networks, or clients that hold connections. "
    "`head_too_large`, `malformed`: invalid requests, often scans. `too_many`: raise the limit or add replicas. "
    "`bodies`: many calls send slowly at once. `old_watch`: a health watch reached its limit of one hour, which is normal.",
    "manifold_disk_bytes": "If little is free: free space before uploads fail.",
    "manifold_gpu_memory_bytes": "If it is near the total: serve fewer models on a GPU, or lower MANIFOLD_MAX_ROWS.",
    "manifold_build_info": "",
    "manifold_worker_up": "0 for more than a few seconds: the worker hangs, and is killed after MANIFOLD_HANG_SECONDS.",
    "manifold_worker_restarts": "If it grows: the log has the exit status. -9 may mean too little memory.",
}
