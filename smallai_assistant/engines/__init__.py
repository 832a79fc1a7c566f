"""Running models: an engine for each file format, one thread for each model.

Read base, generation, executor, decoding, transformers in that order.
"""
