"""Where trials run: a Ray that is there already or one started here, and how many trials fit on it."""
