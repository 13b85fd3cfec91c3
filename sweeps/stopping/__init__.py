"""What ends trials early, or lets them go on from each other.

schedulers    Ray's, over fractions of a full trial
fidelity      how far a trial has come, and when it may be compared
earlier       what trials reported to drivers that are gone
exploitation  population-based training: who goes on from whom, and with which values; decisions only
population    the same in action: turns on the slots, checkpoints taken over
"""
