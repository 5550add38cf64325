"""Evaluation of policies: rating and ranking accuracy, held-out choice with intervals, gate, plots and the report.

Plain NumPy and pandas over tables [U, I]; knows no agent and no TensorFlow. Plots need matplotlib and the report jinja2
(both in the extra `train`), so they are imported where they are used, not here.
"""
