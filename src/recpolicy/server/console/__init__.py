"""The console: pages for people, served by the same app; nothing in them comes from elsewhere."""
