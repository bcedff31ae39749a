"""People's accounts: how allauth does here what it does. All that speaks to it is in this folder.

Importing nothing here: Django loads the adapter by its name.
"""
