"""From trained files to a model: strict about names and shapes, adapters merged, nothing unpickled."""
