"""Lessons: short pages with a measured plot each, and the runs that measure them anew."""
