"""Money over HTTP, below /api/v1: invoices, prices, where an organization stands."""
