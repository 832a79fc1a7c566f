"""What the assistant stores: the database and its tables, turns, feedback, items.

Every write is durable when the call returns, and every failure is a StoreError.
"""
