"""``shopintent bench``: the real service as a process of its own, against what else could be done."""
