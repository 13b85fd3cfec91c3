"""One trial on one worker: build it, iterate growcore's training, report, checkpoint; sort failures.

worker     Ray Tune's handle
job        what a worker is told
attempt    one worker's work on a trial
replicate  one training of it
engine     what trains
alone      a training in this process, without a sweep
"""
