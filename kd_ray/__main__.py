"""`python -m kd_ray` is `kd-ray`."""

from kd_ray.cli import main

main()
