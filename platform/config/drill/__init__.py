"""The drill: a platform under load whose processes are killed, and whose books must be right.

load      clients that ask, hang up, come back, cancel and repeat themselves
kills     who is killed, when, and how
verdict   what each client saw against history, ledger, credit, and what is left over
"""
