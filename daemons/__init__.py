"""FACE of the bus: one file of handlers a daemon. A file is a daemon when it names one `daemon`."""
