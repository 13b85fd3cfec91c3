"""What lies in a run folder and in a study, as plain values and the rules between them; no service library.

events      what a trial did, as JSON lines
endings     how an attempt ends, and what follows
trials      trials and sweeps as a study knows them
outcomes    what a trial that runs has come to so far
replicates  trainings that differ in their seed, told as their mean
budget      what a sweep may spend and has spent
"""
