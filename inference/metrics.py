"""Prometheus metrics of inference. Labels are bounded: models, kinds, states."""

from prometheus_client import Counter, Histogram

REQUESTS = Counter("inference_requests_total", "Requests booked.", ["model", "state"])
TOKENS = Counter("inference_tokens_total", "Tokens booked.", ["model", "kind"])
NANOS = Counter("inference_charged_nanos_total", "Amounts booked, in nanos.", ["model"])
UNBOOKABLE = Counter(
    "inference_unbookable_total",
    "Requests that could not be booked however often it was tried; they failed, at nothing.",
)
QUEUE_SECONDS = Histogram(
    "inference_queue_seconds",
    "From admission to a worker's claim.",
    ["model"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
FIRST_TOKEN_SECONDS = Histogram(
    "inference_first_token_seconds",
    "From admission to the first token.",
    ["model"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
RESPONSE_CACHE = Counter(
    "inference_response_cache_total",
    "Answers looked for in the cache of answers: memory, redis (found there), semantic (in other "
    "words) or miss.",
    ["model", "outcome"],
)
SHADOWS = Counter(
    "inference_shadows_total",
    "Requests for a shadow to answer again: answered, failed, gave way (to requests), dropped.",
    ["model", "outcome"],
)
REMOTE_RETRIES = Counter(
    "inference_remote_retries_total",
    "Calls to a remote server made again before their first token.",
    ["model", "kind"],
)
REMOTE_FAILURES = Counter(
    "inference_remote_failures_total", "Requests that a remote server failed.", ["model", "kind"]
)
REMOTE_MISMATCHES = Counter(
    "inference_remote_mismatches_total",
    "Requests of which a remote server counted other tokens than we did, beyond the bound.",
    ["model", "kind"],
)
PUBLISH_SECONDS = Histogram(
    "inference_publish_seconds",
    "Writing one step to Redis.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1),
)
