"""Migrations: steps that bring a database to the current tables."""
