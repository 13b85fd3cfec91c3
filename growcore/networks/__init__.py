"""Built-in networks, how a configuration becomes one, and what one costs."""
