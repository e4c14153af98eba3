"""x2sam-rt: a trained X2SAM checkpoint as engines, run as a live stream in fixed memory."""
