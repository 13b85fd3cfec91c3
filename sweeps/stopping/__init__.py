"""What ends trials early, or lets them go on from each other. Decisions need no Ray; schedulers are Ray's."""
