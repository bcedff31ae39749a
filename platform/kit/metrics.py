"""Prometheus metrics of the HTTP edge. Labels are bounded: routes, methods, status classes."""

from prometheus_client import Counter, Histogram

REQUESTS = Counter("http_requests_total", "HTTP requests answered.", ["route", "method", "status"])
SECONDS = Histogram(
    "http_request_seconds",
    "Time to the response's first byte.",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
