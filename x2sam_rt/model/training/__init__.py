"""Training: the losses, stages and loop that make a checkpoint. Importing it raises MissingExtra without its extra."""

from x2sam_rt.errors import require_extra

require_extra("train")
