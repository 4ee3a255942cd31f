"""Trackers of experiments: what a run tells TensorBoard, MLflow, Weights & Biases and Trackio."""
