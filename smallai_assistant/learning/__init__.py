"""From feedback to a better model: storing feedback, training a candidate, judging it, promoting it.

Read feedback_service for learning at once, then learner for a whole cycle.
"""
