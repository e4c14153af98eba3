"""One room for many streams: a server in front of workers, each of which owns the engines of a device."""
