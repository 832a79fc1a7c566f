"""Model files: the catalogue, the sources of their bytes, the checks, the conversion.

Nothing here loads a model; the engines do.
"""
