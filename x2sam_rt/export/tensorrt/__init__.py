"""TensorRT engines from our own export: graph pass, parity, parser, profiles, builder."""
