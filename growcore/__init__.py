"""Networks that gain neurons where the loss asks for them and keep the connections that matter."""
