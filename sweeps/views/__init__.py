"""What people look at: plain values in, lines and tables out; nothing here changes a sweep.

plan          what a sweep would do; estimate: what it would cost
preflight     what an untrained network does to a signal
progress      a sweep that runs
leaderboard   its trials side by side; overview: with what was spent; listing: all sweeps
logs          what happened, line by line
compare       two sweeps or two trials at equal FLOPs; curves: what is read for it
exported      a best file that was written; retrained: one trained again
tables        every table that is printed
words         how metrics, numbers and parameters are said
command_line  commands to paste
"""
