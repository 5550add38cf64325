"""How a challenger comes to serve everybody, or does not."""
