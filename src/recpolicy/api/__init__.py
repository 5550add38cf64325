"""The jobs that users ask for, put together from the rooms below: train, evaluate, compare, report.

Sits between the command line and the rooms; pipelines and notebooks call the same functions.
"""
