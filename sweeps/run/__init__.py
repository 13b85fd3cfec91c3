"""One driver's run of a sweep, from a plan to its result.

sweep       launch, resume, extend, enqueue
manage      list, stop, remove sweeps, free their checkpoints
checks      what is refused before anything starts
driver      one run: lease, Ray, records, result
result      what came out of it
warm_start  what a new search starts from
tuner       the one Ray Tuner of a run
searcher    Tune asks, the study answers
attempts    why an attempt at a trial was lost, and whether there is another
lease       one driver per sweep; heartbeat keeps it
spending    time, GPU time and FLOPs so far
monitor     passes on what trials do; stops a run that fails
notify      tells a command and a webhook
"""
