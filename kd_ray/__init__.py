"""kd-ray: distributed knowledge distillation on Ray."""
