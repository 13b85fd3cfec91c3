"""What outlives a sweep: its folder, its best file and, for people, MLflow, which no other room imports."""
