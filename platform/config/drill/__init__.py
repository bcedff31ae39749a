"""The drill: a platform under load whose processes are killed, and whose books must be right.

load, client, batches   clients that ask, hang up, come back, cancel and repeat themselves
heard                   what each of them knows of its request
kills                   who is killed, when, and how
rounds                  both together, as planned
verdict                 what each client saw against history, ledger and credit: request by request
                        (faults, beside what Redis knows: fates), and what is left over (leftovers)
"""
