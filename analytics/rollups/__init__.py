"""Sums of the history by hour and day, in each organization's schema."""
