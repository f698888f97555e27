"""The node daemon: one per machine. It leases workers to submitters, keeps the store, and answers
questions.
"""
