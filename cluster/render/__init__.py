"""Manifests of clusters, written from a recipe's `[resources]`: KubeRay, Slurm, virtual machines.

Pure functions from a recipe and options to text. A manifest never holds data or credentials.
"""
