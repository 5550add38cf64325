"""Cold start of items by delayed outcomes (Impatient Bandits): traces, prior, exact filter, allocation, forecast.

I items, N traces, J days of the horizon. The package needs neither TensorFlow nor SciPy.
Sources: McDonald, Maystre, Lalmas, Russo & Ciosek 2023 (arXiv 2307.09943); Zhang, Baldwin-McDonald, Ciosek, Maystre &
Russo 2025 (arXiv 2501.07761).
"""
