from x2sam_rt.model import torchao_warnings  # noqa: F401  (before anything here imports transformers)
