"""Code of plugins: imported, called and told on threads and processes of its own.

A fault of a plugin harms its own call. A deadline ends the wait, and the thread is left behind.
"""
