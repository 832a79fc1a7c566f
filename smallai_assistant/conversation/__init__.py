"""Answering: a session routes each message to a task and records the turn.

Read session, router, turn_runner in that order.
"""
