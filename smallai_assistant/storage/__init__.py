"""What is kept: the database and its tables, turns, feedback, items.

Everything here commits durably and raises StoreError.
"""
