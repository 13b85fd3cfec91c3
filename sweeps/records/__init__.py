"""What outlives a sweep; the only room that imports MLflow.

disk            the folder of a sweep, its plan and its study
best            the best trial as a file that runs again
retention       which checkpoints stay
projection      the folder of a sweep, sent to MLflow
tracking_store  where MLflow keeps records: reached, or said within seconds why not
server          MLflow's pages over a store of ours
"""
