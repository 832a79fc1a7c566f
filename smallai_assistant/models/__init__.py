"""Model files: the catalogue, where their bytes come from, how they are checked and converted.

Nothing here loads a model; the engines do.
"""
