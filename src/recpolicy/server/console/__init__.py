"""The console: web pages that the same app serves; they load nothing from other hosts."""
