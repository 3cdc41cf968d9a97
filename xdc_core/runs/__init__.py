"""A run and its nodes: where everything lies."""
