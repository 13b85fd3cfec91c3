"""What is searched: keys and groups of a trial, the distributions behind them, and what draws from these."""
