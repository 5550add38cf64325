"""Attacks on a running server, each of a kind that once did harm; `scripts/attack` runs them.

A part (parts.py) starts servers, attacks them and counts broken promises in a result (report.py). Its servers, folders
and checks come from a session (session.py); client.py speaks HTTP, and everything that only looks like it.
"""
