"""The strategy engine: learn which strategy suits which profile and situation.

A strategy is one of 27 combinations of energy, diversity and novelty. A profile has the five Big Five traits. A
situation is a content type, a mood and a time of day. The package needs neither TensorFlow nor pandas.
"""
