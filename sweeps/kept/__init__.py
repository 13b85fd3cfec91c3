"""What lies in a run folder, as plain values and the rules between them; no service library."""
