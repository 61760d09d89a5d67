"""Hard targets: few frames of a run get labels of a higher level of theory, and its students learn them."""
