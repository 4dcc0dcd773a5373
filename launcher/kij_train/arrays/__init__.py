"""Arrays: what each index does, what became of every item, and how that is reported.

Pure but for `store`, which keeps an array in a folder of this machine.
"""
