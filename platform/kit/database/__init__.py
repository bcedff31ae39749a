"""The database backend: django-tenants', made safe for connections that a pool lends."""
