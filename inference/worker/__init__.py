"""The Celery worker's inside: engines, and the threads that carry requests through them.

station     one model: its engine, the engine's thread, and the thread that publishes its steps
stations    which models are loaded, within a budget of memory
embedding   a sentence encoder: texts in, vectors out
remote      a model that another server runs: one event loop carries its streams
openai      the calls to such a server; tally: what an answer of its comes to
finisher    books sealed requests, many in one transaction
watch       keeps leases alive, hears cancellations, takes up what dead workers left
host        all of these, started and drained together
"""

from inference.worker.host import Host

__all__ = ["Host"]
