"""Endpoints of organizations: keys, audit."""
