"""The owner: what a driver or worker knows of the objects it made and the tasks it submitted.

Pure (R6): messages, replies and the time come in through methods; what goes out is appended to outboxes, which the
shells in `shoal.client` carry away. Callers hold the runtime's lock.
"""
