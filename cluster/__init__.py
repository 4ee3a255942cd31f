"""Clusters: starting them, submitting jobs to them, writing their manifests (floor 9)."""
