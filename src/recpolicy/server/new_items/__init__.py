"""Serving of new items: the allocation of the daily job, and the place for it in lists."""
