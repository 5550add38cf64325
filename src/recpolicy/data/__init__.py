"""From files to checked records: acquisition, the ratings table, splits."""
