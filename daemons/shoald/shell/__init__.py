"""Shells: event loop, sockets, log files. They carry events to the cores and effects away, and decide
nothing.
"""
