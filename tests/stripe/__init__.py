"""A double of Stripe: a server of its own, with its own state, that the real package talks to."""
