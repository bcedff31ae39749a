"""The HTTP edge of inference: OpenAI's surface under /v1, the platform's own under /api/v1."""
