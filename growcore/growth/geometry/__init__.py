"""How layers read their input, by kind: what growth sums, where new neurons are read and what fits what."""
