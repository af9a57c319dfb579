"""Who we are: the one place that every install hint and every plan takes it from."""

DISTRIBUTION = "bridge-trt"
__version__ = "0.1.0"
