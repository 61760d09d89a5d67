"""Frames that students need, labelled and learned: of their own MD by the teacher, few by a higher level of theory."""
