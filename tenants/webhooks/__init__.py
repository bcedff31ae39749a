"""Webhooks out: what happened in an organization, told to addresses that it names."""
