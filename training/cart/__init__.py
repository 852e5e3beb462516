"""Training data for cart actions: catalogs, messages and what the cart must do."""
