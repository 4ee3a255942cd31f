"""Clusters: starting them, submitting jobs to them, writing their manifests.

Ray is the cluster; what is here starts its processes, finds them again, and speaks with its job
server, so that the command which ran on one machine runs on many.
"""
