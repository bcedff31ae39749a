"""Endpoints of analytics."""
