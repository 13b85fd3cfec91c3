"""One trial on one worker: build it, iterate growcore's training, report, checkpoint; sort failures.

From the worker inwards: `worker` is Ray Tune's handle, `attempt` one worker's work on a trial, `replicate`
one training of it, `engine` what trains.
"""
