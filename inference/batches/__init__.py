"""Files, and batches of requests: what is asked now and answered by and by."""
