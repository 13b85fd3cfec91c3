"""One driver's run of a sweep, from a plan to its result: who may drive, what is tried, spent and told."""
