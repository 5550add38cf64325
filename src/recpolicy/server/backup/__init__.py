"""Backup and restore of a server's state, on the machine of the state folder; the server may run during a backup.

A backup is a folder:

    backup.json        format, database, schema, and the SHA-256 of each file
    server.db          copy of the SQLite database, or database.dump, a custom-format dump of PostgreSQL
    spool/ online/     events that wait for the database; checkpoints of online learning
    strategies/        versions of the strategy engine
    new_items/         the allocation of new items
    registry/          aliases.json, audit.jsonl and versions/; in the folder itself if the state folder is the registry
"""
