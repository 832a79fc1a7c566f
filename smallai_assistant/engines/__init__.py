"""Running models: each engine loads one kind of model files and computes with them, on one thread per model.

Read base, generation, executor, decoding, transformers in that order.
"""
