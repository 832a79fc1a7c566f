"""From feedback to a better model: screen, train, evaluate, judge, promote.

Read feedback_service for learning at once, then learner for a whole cycle.
"""
